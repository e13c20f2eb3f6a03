/* A reliable full-duplex link over a serial line, as a state machine without I/O. SPEC.md describes the protocol.
 *
 * The caller feeds bytes from the line (fedge_link_receive), takes events (fedge_link_next_event), takes bytes for the
 * line (fedge_link_transmit) and sleeps no longer than fedge_link_wakeup_us says. Time is a free-running counter of
 * microseconds that may wrap; calls must be less than 71 minutes apart while fedge_link_wakeup_us is finite.
 *
 * What is promised within one session: the bytes that fedge_link_send accepted arrive at the peer exactly once and in
 * order, over all streams together, whatever the line loses, repeats, reorders or corrupts, for as long as it is silent.
 * A session ends only when either side restarts; that is an event, never a silence.
 *
 * Two decisions carry the design.
 *  - A frame is resent only on evidence. Every transmission has an ordinal; an acknowledgement of ordinal n, or a PONG that
 *    echoes n, proves what was sent before n and is not acknowledged to be lost, since a serial line keeps order. Timers
 *    send PINGs of 13 bytes, not copies of 250. (On a line that does reorder this costs copies, never correctness.)
 *  - A session is a pair of nonces. Each side draws one; a tag made of both stands in every frame, and a side whose session
 *    was up changes its nonce before it starts another. Old frames, other people's frames and echoes of our own all miss.
 */
#ifndef FEDGE_LINK_H
#define FEDGE_LINK_H

#include "fedge_frame.h"

#define FEDGE_PROTOCOL_VERSION 1u
#define FEDGE_WINDOW 8u /* frames in flight, at most; the SACK bitmap has as many bits */
#define FEDGE_MAX_IDENTITY 32u
#define FEDGE_NEVER UINT32_MAX

/* Working memory: the frames being sent, the frames received ahead of a hole, the frame being received. */
#define FEDGE_LINK_MEMORY_BYTES(PAYLOAD, SEND_WINDOW, RECEIVE_WINDOW) \
    (((SEND_WINDOW) + (RECEIVE_WINDOW)-1u) * (PAYLOAD) + FEDGE_FRAME_DECODED_BYTES(PAYLOAD))

struct fedge_link_config {
    const uint8_t *identity; /* says to the peer who this is: up to 32 bytes, must outlive the link; may be null */
    uint32_t epoch;          /* nonce of this boot: random, or a boot counter; never the same twice in a row, never 0 */
    uint32_t line_rate_bps;  /* bits per second, 10 bits a byte; 300..10000000 */
    uint32_t keepalive_us;   /* send a PING after hearing nothing for so long; 0: stay silent when idle */
    uint16_t max_payload;    /* 64..256; both ways, the smaller of the two sides' holds */
    uint8_t send_window;     /* 1, 2, 4 or 8 */
    uint8_t receive_window;  /* 1..8 */
    uint8_t identity_bytes;
    uint8_t paced;           /* 1: hand out bytes no faster than the line carries them; 0: the caller knows its room */
};

enum fedge_event_type {
    FEDGE_EVENT_NONE = 0,
    FEDGE_EVENT_UP = 1,          /* a session began: epoch, data = the peer's identity */
    FEDGE_EVENT_DATA = 2,        /* stream, data: the next bytes in order */
    FEDGE_EVENT_PEER_RESET = 3,  /* the session ended because the peer began another: epoch = the one that ended */
    FEDGE_EVENT_INCOMPATIBLE = 4 /* a HELLO of another protocol version: epoch = that version */
};

struct fedge_event {
    const uint8_t *data; /* lives until the next fedge_link_receive */
    uint32_t epoch;
    uint16_t data_bytes;
    uint8_t type;
    uint8_t stream;
};

struct fedge_link_stats {
    uint32_t frames_sent, bytes_sent;         /* on the line, all kinds, resent ones included */
    uint32_t frames_received, bytes_received; /* frames with a good CRC; bytes of any kind */
    uint32_t frames_resent;
    uint32_t frames_bad;       /* refused by the decoder */
    uint32_t frames_foreign;   /* good CRC, not of this session */
    uint32_t frames_duplicate; /* data that had arrived before, or that no credit covered */
};

struct fedge_send_slot {
    uint32_t sent_at_us;
    uint16_t ordinal; /* of the last transmission */
    uint16_t length;
    uint8_t stream;
    uint8_t state;
    uint8_t transmissions; /* saturates */
};

struct fedge_receive_slot {
    uint16_t sequence;
    uint16_t length;
    uint8_t stream;
    uint8_t used;
};

/* Every field is private; it is here so that the caller can place it. */
struct fedge_link {
    struct fedge_link_config config;
    struct fedge_decoder decoder;
    struct fedge_link_stats stats;
    struct fedge_send_slot send_slots[FEDGE_WINDOW];
    struct fedge_receive_slot receive_slots[FEDGE_WINDOW - 1];
    uint8_t *send_memory, *receive_memory;
    struct fedge_frame delivery; /* DATA in order that waits in the decoder's buffer for fedge_link_next_event */
    uint32_t now_us;
    uint32_t peer_epoch, ended_epoch;
    uint32_t hello_timer_us, hello_interval_us, ack_timer_us, probe_timer_us, keepalive_timer_us; /* count down */
    uint32_t line_busy_us; /* airtime handed out and not yet over */
    uint32_t quiet_us;     /* since the last good frame; saturates */
    uint32_t srtt_us, rttvar_us;
    uint32_t ping_sent_us;
    uint32_t byte_errors_q24; /* estimated probability that a byte is lost or corrupted, times 2^24 */
    uint16_t unacked, unsent, unused; /* sequence numbers: first not acknowledged, first never sent, first not filled */
    uint16_t credit_edge;     /* the peer has room for sequence numbers below this */
    uint16_t expected;        /* next sequence to deliver */
    uint16_t advertised_edge;
    uint16_t ordinal;         /* of the next transmission */
    uint16_t ping_token, pong_token;
    uint16_t payload_limit;
    uint8_t credit;           /* frames that the caller has room for beyond what was delivered */
    uint8_t peer_window;
    uint8_t up, heard_peer, hello_due, pong_due, ack_now, acks_owed, probe_backoff;
    uint8_t hello_blank;      /* the next HELLO names no peer */
    uint8_t sent_since_ping, ping_ambiguous;
    uint8_t pending;          /* set of events waiting, and DATA */
    uint8_t peer_version;
    uint8_t peer_identity_at, peer_identity_bytes; /* within the decoder's buffer, while FEDGE_EVENT_UP waits */
};

/* Prepares a link in caller's memory of FEDGE_LINK_MEMORY_BYTES(...) bytes. FEDGE_ERR_ARGUMENT: a
 * field of the config is outside the bounds that stand beside it. FEDGE_ERR_SPACE: memory_bytes is too small. Credit begins
 * at 0: see fedge_link_grant. */
int fedge_link_init(struct fedge_link *link, const struct fedge_link_config *config, uint8_t *memory, size_t memory_bytes,
                    uint32_t now_us);

/* Takes bytes from the line until an event waits or they are used up; returns how many it took. Take every event
 * (fedge_link_next_event) before the next call: while one waits, none is taken. */
size_t fedge_link_receive(struct fedge_link *link, const uint8_t *data, size_t length, uint32_t now_us);

/* Moves the next event to *event and returns its type, FEDGE_EVENT_NONE (0) when there is none. */
int fedge_link_next_event(struct fedge_link *link, struct fedge_event *event);

/* Says that the caller has room for `frames` payloads of max_payload bytes from now on. Each FEDGE_EVENT_DATA uses one up.
 * Room once granted is never taken back: a grant below the present one is ignored. */
void fedge_link_grant(struct fedge_link *link, uint8_t frames);

/* Queues bytes for the peer and returns how many fitted, possibly 0. They may wait together with later bytes of the same
 * stream until the line is free, and are cut where the line's error rate makes frames cheapest. Refuses (0) before UP. */
size_t fedge_link_send(struct fedge_link *link, uint8_t stream, const uint8_t *data, size_t length);

/* Writes at most one frame for the line to `out` and returns its size, 0 when nothing is due. `capacity` must be at least
 * FEDGE_FRAME_ENCODED_BYTES(max_payload). Call until it returns 0. */
size_t fedge_link_transmit(struct fedge_link *link, uint8_t *out, size_t capacity, uint32_t now_us);

/* Microseconds from the last call with a time until fedge_link_transmit will have something; FEDGE_NEVER if only news can
 * cause it. */
uint32_t fedge_link_wakeup_us(const struct fedge_link *link);

/* Payload bytes accepted and not yet acknowledged. */
size_t fedge_link_unacked_bytes(const struct fedge_link *link);

/* The tag of frames from the side with nonce `from` to the side with nonce `to`. */
uint16_t fedge_session_tag(uint32_t from, uint32_t to);

#endif
