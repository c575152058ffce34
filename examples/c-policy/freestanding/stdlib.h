// As much of a C library as generated bindings and a policy need. Memory is only ever
// handed out: each question is answered in a sandbox of its own, which is then dropped.
#pragma once
#include <stddef.h>

void *malloc(size_t size);
void *realloc(void *old, size_t size);
void free(void *at);
_Noreturn void abort(void);
