# What the scripts of testdata/succession are written in. The live patches lie
# in this folder under their short names, and names has their modules' names.
failed() { echo "FAILED: $*"; sed 's/^/said: /' log; exit 1; }
module() { sed -n "s/^$1 //p" names; }
state() { echo /sys/kernel/livepatch/$(module $1); }
hear() { dmesg -c >>log; }
# A transition ends when every task has left the functions; that takes seconds at most.
settle() {
	for i in $(seq 300); do
		[ "$(cat $(state $1)/transition 2>/dev/null || echo 0)" = 0 ] && return 0
		sleep 0.1
	done
	hear
	failed "the transition of $1 does not end"
}
gone() {
	for i in $(seq 100); do
		[ -e "$(state $1)" ] || return 0
		sleep 0.1
	done
	hear
	failed "$1 is still there"
}
load() {
	hear
	: >log
	insmod $1.ko || { hear; failed "$1 does not load"; }
	settle $1
	[ "$(cat $(state $1)/enabled)" = 1 ] || failed "$1 is not enabled"
}
disable() {
	hear
	: >log
	echo 0 >$(state $1)/enabled || failed "$1 cannot be disabled"
	settle $1
	gone $1
}
unload() { rmmod $(module $1) || failed "$1 does not unload"; }
# The kernel must not load it, for a reason of this name.
refused() {
	hear
	: >log
	if insmod $1.ko 2>refusal; then failed "$1 loads"; fi
	case "$2" in
	EINVAL) grep -q "Invalid\|invalid" refusal ;;
	EBUSY) grep -q "busy" refusal ;;
	EDOM) grep -qi "out of domain\|out of range" refusal ;;
	*) false ;;
	esac || failed "$1 is refused with: $(cat refusal)"
	[ ! -e "$(state $1)" ] || failed "$1 is refused and there"
}
said() { hear; grep -q -- "$1" log || failed "the kernel did not say: $1"; }
unsaid() { hear; if grep -q -- "$1" log; then failed "the kernel said: $1"; fi; }
# The host's agent, told by hand.
agent() {
	hear
	: >log
	/tmp/afloat-agent "$@" >agent 2>&1 || { hear; cat agent; failed "the agent does not $1"; }
}
apply() { agent apply --bundle $1.afloat; }
revert() { agent revert; }
told() { grep -o -- "$1" agent || { cat agent; failed "the agent did not tell: $1"; }; }
untold() { if grep -q -- "$1" agent; then cat agent; failed "the agent told: $1"; fi; }
