/* The file of f_mixed that stays inside the limited API, in a module that does not. */
#define Py_LIMITED_API 0x03090000
#define FILE_ second_file
#include "f_mixed.h"
