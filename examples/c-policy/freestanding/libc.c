// See stdlib.h.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

extern unsigned char __heap_base; // wasm-ld puts it behind the stack and the data.
static uintptr_t next;

// Each piece has its size before it, for realloc.
void *malloc(size_t size) {
    if (!next) next = (uintptr_t)&__heap_base;
    uintptr_t at = (next + 15) / 8 * 8;
    if (size > (size_t)0x7fffffff || at + size < at) abort();
    next = at + size;
    size_t pages = __builtin_wasm_memory_size(0);
    if (next > pages * 65536) {
        size_t more = (next - pages * 65536 + 65535) / 65536;
        if (__builtin_wasm_memory_grow(0, more) == (size_t)-1) abort();
    }
    ((size_t *)at)[-1] = size;
    return (void *)at;
}

void *realloc(void *old, size_t size) {
    size_t had = old ? ((size_t *)old)[-1] : 0;
    if (size <= had) return old;
    void *new = malloc(size);
    if (old) memcpy(new, old, had);
    return new;
}

void free(void *at) { (void)at; }

void abort(void) { __builtin_trap(); }

void *memcpy(void *to, const void *from, size_t size) {
    for (size_t at = 0; at < size; at++) ((unsigned char *)to)[at] = ((const unsigned char *)from)[at];
    return to;
}

void *memset(void *at, int byte, size_t size) {
    for (size_t index = 0; index < size; index++) ((unsigned char *)at)[index] = (unsigned char)byte;
    return at;
}

int memcmp(const void *a, const void *b, size_t size) {
    const unsigned char *one = a, *other = b;
    for (; size; size--, one++, other++)
        if (*one != *other) return *one - *other;
    return 0;
}

size_t strlen(const char *text) {
    size_t length = 0;
    while (text[length]) length++;
    return length;
}
