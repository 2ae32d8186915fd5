/* Preloaded under PyAudio: keeps the ledger for PortAudio's callback thread from outside of PyAudio and Python.
 *
 * PyAudio's callback is wrapped in Pa_OpenStream, nothing else is touched. Written without portaudio.h, so that an
 * installed PyAudio is enough; the types have been the same since PortAudio 19.
 */
#define _GNU_SOURCE
#include "ledger.h"

#include <dlfcn.h>

typedef int pa_callback(const void *input, void *output, unsigned long frames, const void *time, unsigned long flags,
                        void *user_data);
typedef int pa_open_stream(void **stream, const void *input, const void *output, double rate, unsigned long frames,
                           unsigned long flags, pa_callback *callback, void *user_data);

enum { PA_ABORT = 2, PA_INTERNAL_ERROR = -9986 };

static pa_callback *real_callback;

/* Called by the Python callback, attached: only it knows when the thread is through the door. */
__attribute__((visibility("default"))) void
watch_attached(void)
{
    ledger_attached();
}

static int
watched(const void *input, void *output, unsigned long frames, const void *time, unsigned long flags, void *user_data)
{
    if (ledger_is_stopping()) {
        return PA_ABORT;
    }
    ledger_ask();
    int result = real_callback(input, output, frames, time, flags, user_data);
    if (ledger_place == LEDGER_INSIDE) {
        ledger_back();
    }
    else {
        ledger_refused();
    }
    return result;
}

__attribute__((visibility("default"))) int
Pa_OpenStream(void **stream, const void *input, const void *output, double rate, unsigned long frames,
              unsigned long flags, pa_callback *callback, void *user_data)
{
    /* _portaudio.so was loaded RTLD_LOCAL, so libportaudio may be in nobody's RTLD_NEXT. */
    void *library = dlopen("libportaudio.so.2", RTLD_LAZY | RTLD_NOLOAD);
    pa_open_stream *open_stream;
    *(void **)&open_stream = dlsym(library != NULL ? library : RTLD_NEXT, "Pa_OpenStream");
    if (open_stream == NULL || ledger_open(NULL) < 0) {
        return PA_INTERNAL_ERROR;
    }
    real_callback = callback;
    return open_stream(stream, input, output, rate, frames, flags, watched, user_data);
}
