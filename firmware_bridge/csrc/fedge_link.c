/* The link's sessions and its receiving half; fedge_link_send.c is the other. */
#include <string.h>

#include "fedge_bytes.h"
#include "fedge_link_internal.h"

#define HELLO_BYTES 13u /* version, flags, epoch, peer's epoch, max payload, window; then the identity */
#define HELLO_WANTS_REPLY 0x01u
#define FIRST_HELLO_US 250000u
#define LAST_HELLO_US 2000000u

enum pending { PENDING_RESET = 1, PENDING_UP = 2, PENDING_INCOMPATIBLE = 4, PENDING_DATA = 8, PENDING_STORED = 16 };

/* ---- sessions ----------------------------------------------------------------------------------------------------- */

uint16_t fedge_session_tag(uint32_t from, uint32_t to) {
    uint8_t pair[8];
    uint32_t crc;
    fedge_store32(pair, from);
    fedge_store32(pair + 4, to);
    crc = fedge_crc32(0u, pair, sizeof pair);
    return (uint16_t)((crc >> 16) ^ (crc & 0xFFFFu));
}

static void clear_session(struct fedge_link *link) {
    memset(link->send_slots, 0, sizeof link->send_slots);
    memset(link->receive_slots, 0, sizeof link->receive_slots);
    link->unacked = link->unsent = link->unused = 0;
    link->expected = link->credit_edge = link->advertised_edge = 0;
    link->ordinal = 1;
    link->ping_token = 0;
    link->up = link->pong_due = link->ack_now = link->acks_owed = 0;
    link->probe_backoff = link->ping_ambiguous = 0;
    link->sent_since_ping = 1; /* so that the first PING draws a token */
    link->ack_timer_us = link->probe_timer_us = FEDGE_NEVER;
    link->srtt_us = link->rttvar_us = 0;
    link->pending &= (uint8_t)~(PENDING_DATA | PENDING_STORED);
}

static void say_hello_soon(struct fedge_link *link) {
    link->hello_due = 1;
    link->hello_interval_us = FIRST_HELLO_US;
}

int fedge_link_init(struct fedge_link *link, const struct fedge_link_config *config, uint8_t *memory, size_t memory_bytes,
                    uint32_t now_us) {
    uint8_t w = config->send_window;
    size_t payload = config->max_payload;

    if (config->epoch == 0u || config->line_rate_bps < 300u || config->line_rate_bps > 10000000u ||
        payload < FEDGE_MIN_PAYLOAD || payload > FEDGE_MAX_PAYLOAD || !(w == 1u || w == 2u || w == 4u || w == 8u) ||
        config->receive_window < 1u || config->receive_window > FEDGE_WINDOW ||
        config->identity_bytes > FEDGE_MAX_IDENTITY) {
        return FEDGE_ERR_ARGUMENT;
    }
    if (memory_bytes < FEDGE_LINK_MEMORY_BYTES(payload, w, (size_t)config->receive_window)) {
        return FEDGE_ERR_SPACE;
    }
    memset(link, 0, sizeof *link);
    link->config = *config;
    link->send_memory = memory;
    link->receive_memory = memory + w * payload;
    fedge_decoder_init(&link->decoder, link->receive_memory + (config->receive_window - 1u) * payload,
                       (uint16_t)FEDGE_FRAME_DECODED_BYTES(payload));
    link->now_us = now_us;
    link->payload_limit = config->max_payload;
    link->byte_errors_q24 = 1678u; /* 1e-4 */
    link->keepalive_timer_us = FEDGE_NEVER;
    link->hello_timer_us = FEDGE_NEVER;
    clear_session(link);
    say_hello_soon(link);
    return FEDGE_OK;
}

static void come_up(struct fedge_link *link) {
    link->up = 1;
    link->pending |= PENDING_UP;
    link->hello_timer_us = FEDGE_NEVER;
    link->ack_now = 1; /* the first acknowledgement carries the first credit */
    if (link->config.keepalive_us != 0u) {
        link->keepalive_timer_us = link->config.keepalive_us;
    }
}

/* The peer has a nonce that we did not know. If a session was up, its sequence space is spoilt: ours changes too, so that
 * no frame of the old session can pass for one of the new, however late it comes. */
static void adopt_peer(struct fedge_link *link, uint32_t epoch) {
    if (link->up) {
        link->ended_epoch = link->peer_epoch;
        link->pending |= PENDING_RESET;
        link->config.epoch += 0x9E3779B9u;
        link->config.epoch += link->config.epoch == 0u;
    }
    clear_session(link);
    link->peer_epoch = epoch;
    say_hello_soon(link);
}

static void receive_hello(struct fedge_link *link, const struct fedge_frame *frame) {
    const uint8_t *body = frame->payload;
    uint32_t from, to;
    uint16_t payload;

    if (frame->payload_bytes < HELLO_BYTES || frame->flags != 0u) {
        link->stats.frames_bad++;
        return;
    }
    if (body[0] != FEDGE_PROTOCOL_VERSION) {
        link->peer_version = body[0];
        link->pending |= PENDING_INCOMPATIBLE;
        return;
    }
    from = fedge_load32(body + 2);
    to = fedge_load32(body + 6);
    payload = fedge_load16(body + 10);
    if (from == 0u || from == link->config.epoch /* our own echo */ || payload < FEDGE_MIN_PAYLOAD || body[12] == 0u ||
        frame->payload_bytes > HELLO_BYTES + FEDGE_MAX_IDENTITY) {
        link->stats.frames_bad++;
        return;
    }
    if (from != link->peer_epoch) {
        if (to != 0u && to != link->config.epoch) {
            /* Meant for who we were. Adopt nothing; answer as a stranger would, so that the other side adopts us. Were
             * the answer addressed to the peer that we remember, two sides that remember wrongly would never agree. */
            say_hello_soon(link);
            link->hello_blank = 1;
            return;
        }
        adopt_peer(link, from); /* `to` may have been ours until now: then it no longer is, and the answer says so */
    } else if (to != link->config.epoch || (body[1] & HELLO_WANTS_REPLY)) {
        say_hello_soon(link);
    }
    link->payload_limit = (uint16_t)fedge_min32(payload, link->config.max_payload);
    link->peer_window = (uint8_t)fedge_min32(body[12], FEDGE_WINDOW);
    link->heard_peer = 1;
    if (to == link->config.epoch && !link->up) {
        link->peer_identity_at = (uint8_t)(FEDGE_HEADER_BYTES + HELLO_BYTES);
        link->peer_identity_bytes = (uint8_t)(frame->payload_bytes - HELLO_BYTES);
        come_up(link);
    }
}

size_t fedge_session_write_hello(struct fedge_link *link, uint8_t *out, size_t capacity) {
    uint8_t body[HELLO_BYTES + FEDGE_MAX_IDENTITY];
    struct fedge_frame frame;
    size_t written = 0;

    body[0] = FEDGE_PROTOCOL_VERSION;
    body[1] = (uint8_t)(link->up ? 0u : HELLO_WANTS_REPLY);
    fedge_store32(body + 2, link->config.epoch);
    fedge_store32(body + 6, link->hello_blank ? 0u : link->peer_epoch);
    fedge_store16(body + 10, link->config.max_payload);
    body[12] = link->config.receive_window;
    if (link->config.identity_bytes != 0u) {
        memcpy(body + HELLO_BYTES, link->config.identity, link->config.identity_bytes);
    }
    memset(&frame, 0, sizeof frame);
    frame.type = FEDGE_HELLO;
    frame.payload = body;
    frame.payload_bytes = (uint16_t)(HELLO_BYTES + link->config.identity_bytes);
    if (fedge_frame_encode(&frame, out, capacity, &written) != FEDGE_OK) {
        return 0;
    }
    link->hello_due = link->hello_blank = 0;
    link->hello_timer_us = link->up ? FEDGE_NEVER : link->hello_interval_us;
    link->hello_interval_us = fedge_min32(link->hello_interval_us * 2u, LAST_HELLO_US);
    return written;
}

/* ---- receiving ---------------------------------------------------------------------------------------------------- */

static uint8_t sack_bitmap(const struct fedge_link *link) {
    unsigned bits = 0;
    for (uint8_t i = 0; i + 1u < link->config.receive_window; i++) {
        int32_t ahead = fedge_distance(link->expected, link->receive_slots[i].sequence);
        if (link->receive_slots[i].used && ahead >= 1 && ahead <= 8) {
            bits |= 1u << (ahead - 1);
        }
    }
    return (uint8_t)bits;
}

void fedge_receiver_attach_ack(struct fedge_link *link, struct fedge_frame *frame) {
    frame->flags = FEDGE_FLAG_ACK;
    frame->ack = link->expected;
    frame->sack = sack_bitmap(link);
    frame->credit = (uint8_t)fedge_min32(link->credit, link->config.receive_window);
    link->advertised_edge = (uint16_t)(link->expected + frame->credit);
    link->ack_now = 0;
    link->acks_owed = 0;
    link->ack_timer_us = FEDGE_NEVER;
}

static void store_ahead(struct fedge_link *link, const struct fedge_frame *frame) {
    for (uint8_t i = 0; i + 1u < link->config.receive_window; i++) {
        struct fedge_receive_slot *slot = &link->receive_slots[i];
        if (slot->used && slot->sequence == frame->sequence) {
            link->stats.frames_duplicate++;
            return;
        }
    }
    for (uint8_t i = 0; i + 1u < link->config.receive_window; i++) {
        struct fedge_receive_slot *slot = &link->receive_slots[i];
        if (!slot->used) {
            slot->used = 1;
            slot->sequence = frame->sequence;
            slot->stream = frame->stream;
            slot->length = frame->payload_bytes;
            memcpy(link->receive_memory + (size_t)i * link->config.max_payload, frame->payload, frame->payload_bytes);
            return;
        }
    }
}

static void receive_data(struct fedge_link *link, const struct fedge_frame *frame) {
    int32_t ahead = fedge_distance(link->expected, frame->sequence);
    int had_holes = sack_bitmap(link) != 0u;

    if (frame->payload_bytes > link->config.max_payload) {
        link->stats.frames_bad++;
    } else if (ahead < 0 || ahead >= (int32_t)fedge_min32(link->credit, link->config.receive_window)) {
        link->stats.frames_duplicate++;
        link->ack_now = 1;
    } else if (ahead > 0) {
        store_ahead(link, frame);
        link->ack_now = 1;
    } else {
        link->delivery = *frame;
        link->pending |= PENDING_DATA;
        link->acks_owed = (uint8_t)(link->acks_owed + (link->acks_owed < 255u));
        if (had_holes || link->acks_owed >= 2u) {
            link->ack_now = 1;
        } else if (link->ack_timer_us == FEDGE_NEVER) {
            link->ack_timer_us = fedge_min32(fedge_max32(fedge_frame_airtime_us(link) * 5u / 4u, 4000u), 100000u);
        }
    }
}

static void receive_frame(struct fedge_link *link) {
    struct fedge_frame frame;

    if (fedge_decoder_frame(&link->decoder, &frame) != FEDGE_OK) {
        link->stats.frames_bad++;
        return;
    }
    link->stats.frames_received++;
    if (frame.type == FEDGE_HELLO) {
        receive_hello(link, &frame);
        return;
    }
    if (!link->heard_peer || frame.session != fedge_session_tag(link->peer_epoch, link->config.epoch)) {
        link->stats.frames_foreign++;
        return;
    }
    if (!link->up) { /* the peer is up and we missed its HELLO: ask again, it will resend what it said meanwhile */
        link->hello_due = 1;
        return;
    }
    link->quiet_us = 0;
    if (link->config.keepalive_us != 0u) {
        link->keepalive_timer_us = link->config.keepalive_us;
    }
    if (frame.flags & FEDGE_FLAG_ACK) {
        fedge_sender_take_ack(link, &frame);
    }
    if (frame.type == FEDGE_DATA) {
        receive_data(link, &frame);
    } else if (frame.type == FEDGE_PING) {
        link->pong_token = frame.sequence;
        link->pong_due = 1;
    } else if (frame.type == FEDGE_PONG) {
        fedge_sender_take_pong(link, &frame);
    }
}

size_t fedge_link_receive(struct fedge_link *link, const uint8_t *data, size_t length, uint32_t now_us) {
    size_t taken = 0;
    fedge_link_advance(link, now_us);
    while (taken < length && link->pending == 0u) {
        int status = fedge_decoder_push(&link->decoder, data[taken++]);
        if (status == FEDGE_FRAME_READY) {
            receive_frame(link);
        } else if (status < 0) {
            link->stats.frames_bad++;
        }
    }
    link->stats.bytes_received += (uint32_t)taken;
    return taken;
}

void fedge_link_grant(struct fedge_link *link, uint8_t frames) {
    uint16_t edge;
    if (frames <= link->credit) {
        return;
    }
    link->credit = frames;
    edge = (uint16_t)(link->expected + fedge_min32(frames, link->config.receive_window));
    /* Tell a peer that has used up half of what it was told; the rest rides on ordinary acknowledgements. */
    if (link->up && fedge_distance(link->expected, link->advertised_edge) * 2 <= link->config.receive_window &&
        fedge_distance(link->advertised_edge, edge) > 0) {
        link->ack_now = 1;
    }
}

static int deliver(struct fedge_link *link, struct fedge_event *event, uint8_t stream, const uint8_t *data,
                   uint16_t length) {
    event->type = FEDGE_EVENT_DATA;
    event->stream = stream;
    event->data = data;
    event->data_bytes = length;
    link->expected++;
    link->credit--;
    link->pending |= PENDING_STORED; /* look once whether the hole that this filled was the last */
    return FEDGE_EVENT_DATA;
}

int fedge_link_next_event(struct fedge_link *link, struct fedge_event *event) {
    memset(event, 0, sizeof *event);
    if (link->pending & PENDING_INCOMPATIBLE) {
        link->pending &= (uint8_t)~PENDING_INCOMPATIBLE;
        event->epoch = link->peer_version;
        return event->type = FEDGE_EVENT_INCOMPATIBLE;
    }
    if (link->pending & PENDING_RESET) {
        link->pending &= (uint8_t)~PENDING_RESET;
        event->epoch = link->ended_epoch;
        return event->type = FEDGE_EVENT_PEER_RESET;
    }
    if (link->pending & PENDING_UP) {
        link->pending &= (uint8_t)~PENDING_UP;
        event->epoch = link->peer_epoch;
        event->data = link->decoder.buffer + link->peer_identity_at;
        event->data_bytes = link->peer_identity_bytes;
        return event->type = FEDGE_EVENT_UP;
    }
    if (link->pending & PENDING_DATA) {
        link->pending &= (uint8_t)~PENDING_DATA;
        return deliver(link, event, link->delivery.stream, link->delivery.payload, link->delivery.payload_bytes);
    }
    if (link->pending & PENDING_STORED) {
        for (uint8_t i = 0; i + 1u < link->config.receive_window; i++) {
            struct fedge_receive_slot *slot = &link->receive_slots[i];
            if (slot->used && slot->sequence == link->expected) {
                slot->used = 0;
                return deliver(link, event, slot->stream, link->receive_memory + (size_t)i * link->config.max_payload,
                               slot->length);
            }
        }
        link->pending &= (uint8_t)~PENDING_STORED;
    }
    return event->type = FEDGE_EVENT_NONE;
}
