/* The library below tests of a real ctypes callback: what it is given is made by ctypes.CFUNCTYPE, which attaches. */
#include "function_pointer.h"
#include "ledger.h"

static void (*callback_of_user)(long);

/* The library's threads have no end: once the process is leaving they get no further than this. */
static void
counted(long number)
{
    while (ledger_is_stopping()) {
        ledger_pause(1000000);
    }
    ledger_ask();
    callback_of_user(number);
    ledger_back();
}

#ifdef __cplusplus
extern "C" {
#endif
int start(void (*callback)(long));
void attached(void);

/* 0, or an errno; -1 when the environment names no ledger */
int
start(void (*callback)(long))
{
    callback_of_user = callback;
    return ledger_open(NULL) < 0 ? -1 : start_library(counted);
}

/* Called by the callback itself: it got in. */
void
attached(void)
{
    ledger_attached();
}
#ifdef __cplusplus
}
#endif
