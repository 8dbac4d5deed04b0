package kernel

import (
	"slices"
	"testing"
)

// Files have dashes where the kernel, Module.symvers and /proc/modules have underscores.
func TestModuleDependsNames(t *testing.T) {
	var m Module
	m.readInfo([]byte("name=usb_f_hid\x00depends=libcomposite,udc-core\x00"))
	if want := []string{"libcomposite", "udc_core"}; !slices.Equal(m.Depends, want) {
		t.Errorf("depends on %v, want %v", m.Depends, want)
	}
}
