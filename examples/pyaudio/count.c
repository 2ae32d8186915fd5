/* Preloaded by prove.py: counts PortAudio's callbacks from outside of Python and of PyAudio.
 *
 * The counters live in a file that prove.py reads afterwards, so they survive SIGSEGV and SIGKILL.
 * PyAudio's callback is wrapped in Pa_OpenStream; nothing else of PortAudio or Python is touched.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <portaudio.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* prove.py reads these as unsigned 64-bit integers, in this order. */
struct counters {
    _Atomic unsigned long long started;  /* PortAudio called PyAudio */
    _Atomic unsigned long long returned; /* and PyAudio came back; if not within two seconds of exit(), the thread is lost */
    _Atomic unsigned long long refused;  /* with paAbort and a buffer full of silence: what the port does */
    _Atomic unsigned long long failed;   /* with paAbort otherwise: Python ran, and raised */
    _Atomic unsigned long long late;     /* begun when Py_IsInitialized() was 0 already */
    _Atomic unsigned long long ran_late; /* and not refused: Python code ran in an interpreter being torn down */
};

struct wrapped {
    PaStreamCallback *callback;
    void *user_data;
    size_t frame_bytes;
};

enum { NOISE = 0x5A }; /* what the buffer holds before PyAudio fills it; program.py only plays zeros */

static struct counters *counters;
static int (*is_initialized)(void);

static void
add(_Atomic unsigned long long *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static int
is_silent(const unsigned char *output, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (output[i] != 0) {
            return 0;
        }
    }
    return 1;
}

static int
counting(const void *input, void *output, unsigned long frames, const PaStreamCallbackTimeInfo *time,
         PaStreamCallbackFlags flags, void *user_data)
{
    const struct wrapped *real = user_data;
    const size_t size = real->frame_bytes * frames;
    const int late = !is_initialized();
    memset(output, NOISE, size);
    add(&counters->started);
    if (late) {
        add(&counters->late);
    }
    int result = real->callback(input, output, frames, time, flags, real->user_data);
    add(&counters->returned);
    const int refused = result == paAbort && is_silent(output, size);
    if (refused) {
        add(&counters->refused);
    } else if (result == paAbort) {
        add(&counters->failed);
    }
    if (late && !refused) {
        add(&counters->ran_late);
    }
    return result;
}

static struct counters *
map_counters(void)
{
    const char *path = getenv("PYAUDIO_PROVE_COUNTERS");
    int fd = path == NULL ? -1 : open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return NULL;
    }
    void *memory = mmap(NULL, sizeof(struct counters), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return memory == MAP_FAILED ? NULL : memory;
}

/* exit() does not wait for PortAudio's thread, which may just be inside of a callback: that is no loss.  Only one that
 * does not come back in two seconds, because it was terminated or parked, is. */
__attribute__((destructor)) static void
wait_for_callback(void)
{
    for (int i = 0; counters != NULL && i < 2000; i++) {
        if (atomic_load(&counters->returned) == atomic_load(&counters->started)) {
            return;
        }
        usleep(1000);
    }
}

__attribute__((visibility("default"))) PaError
Pa_OpenStream(PaStream **stream, const PaStreamParameters *input, const PaStreamParameters *output, double rate,
              unsigned long frames, PaStreamFlags flags, PaStreamCallback *callback, void *user_data)
{
    PaError (*open_stream)(PaStream **, const PaStreamParameters *, const PaStreamParameters *, double,
                           unsigned long, PaStreamFlags, PaStreamCallback *, void *);
    *(void **)&open_stream = dlsym(RTLD_NEXT, "Pa_OpenStream");
    if (open_stream == NULL) {
        /* _portaudio.so and with it libportaudio were loaded RTLD_LOCAL: not in this library's RTLD_NEXT scope. */
        void *library = dlopen("libportaudio.so.2", RTLD_LAZY | RTLD_NOLOAD);
        *(void **)&open_stream = library == NULL ? NULL : dlsym(library, "Pa_OpenStream");
    }
    *(void **)&is_initialized = dlsym(RTLD_DEFAULT, "Py_IsInitialized");
    counters = map_counters();
    struct wrapped *real = malloc(sizeof *real); /* never freed: PortAudio's thread may outlive everything */
    if (open_stream == NULL || is_initialized == NULL || counters == NULL || real == NULL || output == NULL) {
        abort(); /* a run that is not counted proves nothing */
    }
    real->callback = callback;
    real->user_data = user_data;
    real->frame_bytes = (size_t)output->channelCount * 2; /* program.py plays paInt16 */
    return open_stream(stream, input, output, rate, frames, flags, callback == NULL ? NULL : counting, real);
}
