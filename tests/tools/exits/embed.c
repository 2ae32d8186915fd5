/* A program that initializes and finalizes Python some times and then goes on without it.  argv: cycles, seconds. */
#include <Python.h>
#include <time.h>

int
main(int argc, char **argv)
{
    int cycles = argc > 1 ? atoi(argv[1]) : 1;
    struct timespec rest = {argc > 2 ? atoi(argv[2]) : 0, 0};
    for (int i = 0; i < cycles; i++) {
        Py_Initialize();
        if (PyRun_SimpleString("import atexit; atexit.register(int)") < 0 || Py_FinalizeEx() < 0) {
            return 3;
        }
    }
    nanosleep(&rest, NULL);
    return 0;
}
