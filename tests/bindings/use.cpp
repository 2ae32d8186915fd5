// Every function of pep788.hpp, for the compilers' warnings.
#ifdef PYTHON_FIRST
#  include <Python.h>
#endif
#include <pep788.hpp>

namespace {

pep788::view interpreter;
pep788::object callable;

pep788::attached
enter()
{
    return pep788::attached(interpreter);
}

} // namespace

int use(PyObject *object);

int
use(PyObject *object)
{
    interpreter = pep788::view::current();
    pep788::view main = pep788::view::main();
    pep788::view moved(static_cast<pep788::view &&>(main));
    main = static_cast<pep788::view &&>(moved);
    main.reset(main.release());
    pep788::guard guard(interpreter);
    pep788::guard mine = pep788::guard::current();
    if (!guard || !mine || guard.get() == nullptr) {
        return -1;
    }
    guard.reset();
    callable = pep788::object::borrow(object);
    pep788::object other = pep788::object::steal(callable.release());
    {
        pep788::attached here = enter();
        pep788::attached inner(mine);
        pep788::attached there(other);
        pep788::kept kept(interpreter);
        if (!here || !inner.is_valid() || !there || !kept) {
            return -1;
        }
        kept.release();
        there.release();
    }
    other.reset();
    return other ? 1 : 0;
}
