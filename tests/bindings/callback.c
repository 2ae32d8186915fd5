/* A C library that calls back, on threads of its own and after the end of Python. It knows nothing of Python. */

#include <complex.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

/* --- a pool of threads that call back without pause ---------------------------------------------------------- */

#define THREADS 4
#define LATE (-7)       /* what the pool's callbacks shall return when Python has ended */
#define LATE_CALLS 100  /* of each thread, before it ends */

typedef int (*tick)(int thread);

static tick callback;
static int sleeps;                      /* microseconds between calls */
static atomic_int finished, wrong;
/* Written by the callback itself: calls that went in, and that came out. */
int begun[THREADS], ended[THREADS];
static int returned[THREADS];           /* calls that gave the thread's number back */

static void *
pool_thread(void *argument)
{
    int number = (int)(intptr_t)argument, late = 0;
    while (late < LATE_CALLS) {
        int answer = callback(number);
        if (answer == LATE) {
            late++;
        }
        else if (answer == number) {
            returned[number]++;
        }
        else {
            atomic_fetch_add(&wrong, 1);
        }
        if (sleeps) {
            usleep((unsigned)sleeps);
        }
    }
    atomic_fetch_add(&finished, 1);
    return NULL;
}

/* Python is gone: the threads get their late answers, or PATIENCE runs out. Then the process is ended from here. */
static int patience;                    /* milliseconds */

static void
report(void)
{
    char text[200];
    int in = 0, out = 0, back = 0;
    for (int waited = 0; atomic_load(&finished) < THREADS && waited < patience; waited++) {
        usleep(1000);
    }
    for (int i = 0; i < THREADS; i++) {
        in += begun[i];
        out += ended[i];
        back += returned[i];
    }
    int length = snprintf(text, sizeof(text), "lost %d wrong %d cut %d unreturned %d called %d\n",
                          THREADS - atomic_load(&finished), atomic_load(&wrong), in - out, out - back, back > 0);
    if (write(1, text, (size_t)length) < 0) {
        _exit(3);
    }
    _exit(0);
}

void
start_pool(tick function, int milliseconds, int microseconds)
{
    callback = function;
    patience = milliseconds;
    sleeps = microseconds;
    atexit(report);
    for (intptr_t i = 0; i < THREADS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, pool_thread, (void *)i) != 0) {
            abort();
        }
        pthread_detach(thread);
    }
}

/* --- one call on a thread of its own ---------------------------------------------------------------------------- */

static struct {
    pthread_t thread;
    tick function;
    int number;
} call;

static void *
make_call(void *unused)
{
    call.number = call.function(call.number);
    return unused;
}

void
begin_call(tick function, int number)
{
    call.function = function;
    call.number = number;
    if (pthread_create(&call.thread, NULL, make_call, NULL) != 0) {
        abort();
    }
}

int
end_call(void)
{
    pthread_join(call.thread, NULL);
    return call.number;
}

int
call_on_thread(tick function, int number)
{
    begin_call(function, number);
    return end_call();
}

/* errno as the caller finds it, on one other thread. */
static void *
look_at_errno(void *unused)
{
    errno = call.number;
    call.function(0);
    call.number = errno;
    return unused;
}

int
errno_after(tick function, int before)
{
    call.function = function;
    call.number = before;
    if (pthread_create(&call.thread, NULL, look_at_errno, NULL) != 0) {
        abort();
    }
    return end_call();
}

/* The last of a number of calls on one other thread. */
static void *
make_calls(void *unused)
{
    int times = call.number;
    for (int i = 0; i < times; i++) {
        call.number = call.function(i);
    }
    return unused;
}

int
call_often(tick function, int times)
{
    call.function = function;
    call.number = times;
    if (pthread_create(&call.thread, NULL, make_calls, NULL) != 0) {
        abort();
    }
    return end_call();
}

/* --- every kind of result, asked for after the end of Python ---------------------------------------------------- */

typedef struct { float x, y; } small;
typedef struct { char name[3]; small at; } nested;
typedef struct { double values[5]; int64_t count; } large;

static struct {
    int8_t (*sint8)(int8_t);
    uint16_t (*uint16)(uint16_t);
    int (*sint)(int);
    int64_t (*sint64)(int64_t);
    float (*one)(float);
    double (*two)(double);
    long double (*three)(long double);
    const char *(*text)(const char *);
    const wchar_t *(*wide)(const wchar_t *);
    void *(*pointer)(void *);
    void (*nothing)(int);
} late;

#define SETTER(name) void late_##name(void *function) { memcpy(&late.name, &function, sizeof(function)); }
SETTER(sint8) SETTER(uint16) SETTER(sint) SETTER(sint64) SETTER(one) SETTER(two) SETTER(three)
SETTER(text) SETTER(wide) SETTER(pointer) SETTER(nothing)

static void
ask(void)
{
    late.nothing(1);
    printf("%d %d %d %lld %g %g %Lg %s %ls %p\n", late.sint8(1), late.uint16(2), late.sint(3),
           (long long)late.sint64(4), (double)late.one(5), late.two(6), late.three(7), late.text("in"),
           late.wide(L"in"), late.pointer(&late));
    fflush(stdout);
}

void
ask_at_exit(void)
{
    atexit(ask);
}

/* The compiler's own idea of small results: it looks at the low bits only, or at all. */
#define CALLER(name, type) long long call_##name(type (*f)(type), type x) { return (long long)f(x); }
CALLER(bool, _Bool) CALLER(char, char) CALLER(sint8, int8_t) CALLER(uint8, uint8_t) CALLER(sint16, int16_t)
CALLER(uint16, uint16_t) CALLER(sint32, int32_t) CALLER(uint32, uint32_t) CALLER(sint64, int64_t)
CALLER(uint64, uint64_t) CALLER(wchar, wchar_t)

double call_float(float (*f)(float), float x) { return f(x); }
double call_double(double (*f)(double), double x) { return f(x); }
int same_longdouble(long double (*f)(long double), long double x) { return f(x) == x; }

/* Structures by value, mixed with numbers that fill the registers up. */
double
call_structures(double (*f)(int, small, double, nested, large, small *, signed char), large big)
{
    small a = {1.5f, 2.5f};
    nested b = {{'a', 'b', 'c'}, {3.5f, 4.5f}};
    return f(-5, a, 6.25, b, big, &a, -3);
}

small small_of(small (*f)(float), float x) { return f(x); }
large large_of(large (*f)(double), double x) { return f(x); }

double call_complex(double _Complex (*f)(double _Complex), double real, double imaginary)
{
    double _Complex z = f(real + imaginary * I);
    return creal(z) * 1000 + cimag(z);
}
