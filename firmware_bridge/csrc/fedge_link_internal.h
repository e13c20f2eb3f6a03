/* What the two halves of the link share: fedge_link.c (sessions, receiving) and fedge_link_send.c. Not for callers. */
#ifndef FEDGE_LINK_INTERNAL_H
#define FEDGE_LINK_INTERNAL_H

#include "fedge_link.h"

#define FEDGE_OVERHEAD_BYTES 12u /* header, CRC, COBS, delimiter: what a data frame costs beyond its payload */

static inline uint32_t fedge_min32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t fedge_max32(uint32_t a, uint32_t b) { return a > b ? a : b; }

/* How far b lies after a in the circle of sequence numbers: negative when before. */
static inline int32_t fedge_distance(uint16_t a, uint16_t b) {
    uint16_t d = (uint16_t)(b - a);
    return d < 0x8000u ? (int32_t)d : (int32_t)d - 0x10000;
}

static inline uint32_t fedge_airtime_us(const struct fedge_link *link, uint32_t bytes) {
    /* bytes < 4096, so 10^7 * bytes needs 64 bits; a 32-bit quotient of whole microseconds a byte would be 0 at 10 Mb/s. */
    return (uint32_t)((uint64_t)bytes * 10000000u / link->config.line_rate_bps);
}

static inline uint32_t fedge_frame_airtime_us(const struct fedge_link *link) {
    return fedge_airtime_us(link, link->payload_limit + FEDGE_OVERHEAD_BYTES);
}

static inline void fedge_count_down(uint32_t *timer, uint32_t elapsed) {
    if (*timer != FEDGE_NEVER) {
        *timer -= fedge_min32(*timer, elapsed);
    }
}

/* Timers count down instead of naming an instant: nothing is ever compared across the wrap of the clock. */
static inline void fedge_link_advance(struct fedge_link *link, uint32_t now_us) {
    uint32_t elapsed = now_us - link->now_us;
    link->now_us = now_us;
    fedge_count_down(&link->hello_timer_us, elapsed);
    fedge_count_down(&link->ack_timer_us, elapsed);
    fedge_count_down(&link->probe_timer_us, elapsed);
    fedge_count_down(&link->keepalive_timer_us, elapsed);
    link->line_busy_us -= fedge_min32(link->line_busy_us, elapsed);
    link->quiet_us += fedge_min32(FEDGE_NEVER - link->quiet_us, elapsed);
}

/* fedge_link.c: write this side's HELLO and arm its next; put the state of reception into a frame. */
size_t fedge_session_write_hello(struct fedge_link *link, uint8_t *out, size_t capacity);
void fedge_receiver_attach_ack(struct fedge_link *link, struct fedge_frame *frame);

/* fedge_link_send.c: what the peer says about our frames. */
void fedge_sender_take_ack(struct fedge_link *link, const struct fedge_frame *frame);
void fedge_sender_take_pong(struct fedge_link *link, const struct fedge_frame *frame);

#endif
