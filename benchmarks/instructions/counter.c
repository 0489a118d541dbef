/* What Valgrind offers to the program that it runs: https://valgrind.org/docs/manual/cl-manual.html#cl-manual.clientrequests */
#include <valgrind/callgrind.h>

void begin(void) { CALLGRIND_START_INSTRUMENTATION; }

/* Writes down what was counted since the last call, and begins anew. */
void note(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }
