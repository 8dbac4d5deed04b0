# A live patch's whole life in a guest: $1 is its module, $2 is "contrast" where
# the check must fail without it, $3 is "leave" where the others, modules to load
# while it is in effect, are to be unloaded before it is disabled. The exit code is the step that failed, as Life numbers them; the last
# that is printed is what the kernel said.
name=$1 contrast=$2 leave=$3
shift 3
cd /tmp/life
state=/sys/kernel/livepatch/$name
: >log
: >said
note() { echo "afloat-life $*"; }
uptime() { read -r up idle </proc/uptime; echo "$up"; }
# A transition ends when every task has left the functions; that takes seconds at most.
settle() {
	for i in $(seq 300); do
		[ "$(cat $state/transition 2>/dev/null || echo 0)" = 0 ] && return 0
		sleep 0.1
	done
	for task in /proc/[0-9]*; do
		[ "$(cat $task/patch_state)" = -1 ] || { echo "$task $(cat $task/comm) patch_state $(cat $task/patch_state)"; cat $task/stack; }
	done
	return 1
}
check() {
	dmesg -c >>log
	./check >said 2>&1
}
fail() {
	cat said log
	dmesg
	exit "$1"
}
# The guest's workload writes to its disk for each request.
probe() { /bin/lab-guest probe >said 2>&1; }
dmesg -c >/dev/null
if [ -n "$contrast" ] && check; then fail 1; fi
began=$(uptime)
insmod patch.ko 2>said || fail 2
note load "$began" "$(uptime)"
settle || fail 3
note transition "$began" "$(uptime)"
[ "$(cat $state/enabled)" = 1 ] || fail 4
note taint "$(cat "/sys/module/$name/taint")"
for late in "$@"; do insmod "$late.ko" 2>said || fail 5; done
note redirected "$(grep -c klp_ftrace_handler /sys/kernel/tracing/enabled_functions)"
probe || fail 6
if [ -e check ]; then check || fail 7; fi
if [ -n "$leave" ]; then
	last=
	for late in "$@"; do last="$late $last"; done
	for late in $last; do rmmod "$late" 2>said || fail 14; done
fi
echo 0 >$state/enabled || fail 8
settle || fail 9
for i in $(seq 100); do
	[ -e $state ] || break
	sleep 0.1
done
[ ! -e $state ] || fail 10
rmmod "$name" 2>said || fail 11
[ ! -e "/sys/module/$name" ] || fail 11
if [ -n "$contrast" ] && check; then fail 12; fi
probe || fail 13
cat log
dmesg
