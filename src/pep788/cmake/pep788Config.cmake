# find_package(pep788 CONFIG): the target pep788::pep788, the folder of pep788.h, pep788.hpp and pep788/*.hpp.
# Enable C or C++ first.
cmake_minimum_required(VERSION 3.15...4.0)

include(CMakeFindDependencyMacro)
set(THREADS_PREFER_PTHREAD_FLAG ON) # glibc before 2.34 keeps the thread functions in a library of its own
find_dependency(Threads)

get_filename_component(pep788_INCLUDE_DIR "${CMAKE_CURRENT_LIST_DIR}/../include" ABSOLUTE)
if(NOT TARGET pep788::pep788)
  add_library(pep788::pep788 INTERFACE IMPORTED)
  set_target_properties(
    pep788::pep788 PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${pep788_INCLUDE_DIR}"
                              INTERFACE_LINK_LIBRARIES Threads::Threads)
endif()
