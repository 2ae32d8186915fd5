/* Python is started and ended twice under the watchdog; the second end hangs. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dirent.h>
#include <sched.h>
#include <stdio.h>

static int
count_threads(void)
{
    int count = -2;     /* . and .. */
    DIR *tasks = opendir("/proc/self/task");
    while (readdir(tasks) != NULL) {
        count++;
    }
    closedir(tasks);
    return count;
}

static void
cycle(const char *code)
{
    Py_Initialize();
    if (PyRun_SimpleString(code) != 0) {
        fprintf(stderr, "the program's Python code failed\n");
    }
    printf("threads before: %d\n", count_threads());
    fflush(stdout);
    Py_Finalize();
}

int
main(int argc, char **argv)
{
    cycle(argv[1]);
    while (count_threads() != 1) {
        sched_yield();      /* for as long as the watcher stays: the test's time limit */
    }
    printf("threads between: 1\n");
    cycle(argv[2]);
    return argc != 3;
}
