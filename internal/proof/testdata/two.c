extern int first(int);
static int state = 4;
static int table[4];
static __attribute__((noinline)) int step(int x) { return x * 3 + state; }
static __attribute__((noinline)) int get(int x) { table[x & 3] += 2; return table[x & 3] + first(x); }
static __attribute__((noinline)) int idle(int x) { return x * 5; }
int (*two_boot)(int) __attribute__((section(".init.data"))) = idle;
static int (*const ops[])(int) = { step, get };
int hook(int x) { return x + 2; }
int other(int x) { state++; return ops[x & 1](x) + get(x + 1); }
const char *name(void) { return "two"; }
