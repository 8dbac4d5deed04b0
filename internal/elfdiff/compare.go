package elfdiff
