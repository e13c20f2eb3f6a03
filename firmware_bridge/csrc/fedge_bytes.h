/* Little-endian load and store, one byte at a time: no alignment, no host byte order, no pointer casts. */
#ifndef FEDGE_BYTES_H
#define FEDGE_BYTES_H

#include <stdint.h>

static inline uint16_t fedge_load16(const uint8_t *p) { return (uint16_t)(p[0] | ((uint16_t)p[1] << 8)); }

static inline uint32_t fedge_load32(const uint8_t *p) {
    return (uint32_t)fedge_load16(p) | ((uint32_t)fedge_load16(p + 2) << 16);
}

static inline uint64_t fedge_load64(const uint8_t *p) {
    return (uint64_t)fedge_load32(p) | ((uint64_t)fedge_load32(p + 4) << 32);
}

static inline void fedge_store16(uint8_t *p, uint16_t value) {
    p[0] = (uint8_t)(value & 0xFFu);
    p[1] = (uint8_t)(value >> 8);
}

static inline void fedge_store32(uint8_t *p, uint32_t value) {
    fedge_store16(p, (uint16_t)(value & 0xFFFFu));
    fedge_store16(p + 2, (uint16_t)(value >> 16));
}

static inline void fedge_store64(uint8_t *p, uint64_t value) {
    fedge_store32(p, (uint32_t)(value & 0xFFFFFFFFu));
    fedge_store32(p + 4, (uint32_t)(value >> 32));
}

#endif
