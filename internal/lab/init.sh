#!/bin/busybox sh
# PID 1 of a lab guest until everything is mounted and loaded; then busybox
# init, which keeps the guest's services alive.
/bin/busybox --install -s /bin
export PATH=/bin

mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t debugfs debug /sys/kernel/debug 2>/dev/null
mount -t tracefs trace /sys/kernel/tracing 2>/dev/null
dmesg -n 8

for arg in $(cat /proc/cmdline); do
	case $arg in lab.host=*) hostname "${arg#lab.host=}" ;; esac
done
while read -r module; do
	insmod "/lib/modules/$module.ko" || echo "lab: cannot load $module" >/dev/console
done </etc/lab/modules
# The crash log of the boot before this one, in memory that a reset leaves alone.
if [ -e /lib/modules/ramoops.ko ]; then
	insmod /lib/modules/ramoops.ko mem_address=0x8000000 mem_size=0x100000 \
		record_size=0x20000 console_size=0x20000 ecc=1
fi
mount -t pstore pstore /sys/fs/pstore 2>/dev/null

ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2
ip addr add 10.0.3.15/24 dev eth1
ip link set eth1 up

mount -t ext4 /dev/vda /data || echo "lab: cannot mount /data" >/dev/console
[ -e /data/lab/owned ] || { chown -R 0:0 /data && mkdir -p /data/lab && touch /data/lab/owned; }
# What an agent keeps must outlive a boot.
mkdir -p /data/afloat/etc /data/afloat/state /data/log
mount -o bind /data/afloat/etc /etc/afloat
mount -o bind /data/afloat/state /var/lib/afloat
exec /bin/busybox init
