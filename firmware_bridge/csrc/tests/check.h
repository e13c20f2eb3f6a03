/* CHECK and a reader of golden_vectors.txt: all that the C tests share. */
#ifndef FEDGE_CHECK_H
#define FEDGE_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                             \
    do {                                                                             \
        if (!(condition)) {                                                          \
            fprintf(stderr, "%s:%d: CHECK(%s)\n", __FILE__, __LINE__, #condition);   \
            exit(1);                                                                 \
        }                                                                            \
    } while (0)

/* Hex digits to bytes; "-" is nothing. Returns how many. */
static inline size_t unhex(const char *text, uint8_t *out, size_t capacity) {
    size_t length = 0;
    if (strcmp(text, "-") == 0) {
        return 0;
    }
    for (; text[0] != '\0' && text[1] != '\0'; text += 2) {
        unsigned value = 0;
        CHECK(length < capacity && sscanf(text, "%2x", &value) == 1);
        out[length++] = (uint8_t)value;
    }
    return length;
}

/* Calls `use` with the fields of every line of `kind`; fails if there is none. */
static inline void each_vector(const char *path, const char *kind, void (*use)(char **fields)) {
    static char line[2048];
    char *fields[10];
    int found = 0;
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file) != NULL) {
        size_t count = 0;
        for (char *field = strtok(line, " \n"); field != NULL && count < 10; field = strtok(NULL, " \n")) {
            fields[count++] = field;
        }
        if (count > 1 && strcmp(fields[0], kind) == 0) {
            use(fields + 1);
            found++;
        }
    }
    fclose(file);
    CHECK(found > 0);
}

/* xorshift32: reproducible noise; `state` must not be 0. */
static inline uint32_t draw(uint32_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

#endif
