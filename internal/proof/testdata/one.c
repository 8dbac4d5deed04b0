// one.c and two.c share the names of static functions and data, as kernel objects do.
extern int other(int);
extern const char *name(void);
int __attribute__((weak)) hook(int x) { return x + 1; }
static int state = 3;
static int table[4];
static __attribute__((noinline)) int step(int x) { return x * 3 + state; }
static __attribute__((noinline)) int get(int x) { table[x & 3]++; return table[x & 3]; }
static __attribute__((noinline)) int idle(int x) { return x * 5; }
int (*one_boot)(int) __attribute__((section(".init.data"))) = idle;
int set(int x) { state = x; return x; }
int first(int x) { return step(x) + get(x) + other(x) + hook(x); }
const char *label(int x) { return x ? "one" : name(); }
__attribute__((section(".init.text"))) int early(void) { return state; }
