/* The link's sending half: slots, what to send next, and what acknowledgements prove. fedge_link.c is the other. */
#include <string.h>

#include "fedge_link_internal.h"

#define PROBE_CAP_US 1000000u
#define LEAD_US 10000u /* bytes given out ahead of the line, so that a late wake-up leaves no gap */

enum slot_state { SLOT_FREE, SLOT_QUEUED, SLOT_FLYING, SLOT_LOST, SLOT_SACKED };

enum action { DO_NOTHING, DO_HELLO, DO_PONG, DO_DATA, DO_PING, DO_ACK };

/* ---- timers ---------------------------------------------------------------------------------------------------------- */

/* 1.5 windows of airtime: an acknowledgement may honestly wait behind a full window in the other direction. */
static uint32_t rto_us(const struct fedge_link *link) {
    uint32_t floor = fedge_frame_airtime_us(link) * FEDGE_WINDOW * 3u / 2u;
    uint32_t rto = link->srtt_us == 0u ? 300000u : link->srtt_us + fedge_max32(1000u, 4u * link->rttvar_us);
    rto = fedge_max32(rto, floor);
    for (uint8_t i = 0; i < link->probe_backoff && rto < PROBE_CAP_US; i++) {
        rto *= 2u;
    }
    return fedge_min32(rto, fedge_max32(PROBE_CAP_US, floor));
}

/* The first question after the last frame costs 13 bytes, so it may come earlier than the RTO of RFC 6298. */
static uint32_t first_probe_us(const struct fedge_link *link) {
    uint32_t soon = link->srtt_us + fedge_max32(1000u, 4u * link->rttvar_us) + 2u * fedge_frame_airtime_us(link);
    return link->srtt_us == 0u ? rto_us(link) : fedge_min32(soon, rto_us(link));
}

static void rtt_sample(struct fedge_link *link, uint32_t rtt_us) {
    rtt_us = fedge_min32(fedge_max32(rtt_us, 1u), 60000000u);
    if (link->srtt_us == 0u) {
        link->srtt_us = rtt_us;
        link->rttvar_us = rtt_us / 2u;
    } else { /* RFC 6298 (2.3) */
        uint32_t error = link->srtt_us > rtt_us ? link->srtt_us - rtt_us : rtt_us - link->srtt_us;
        link->rttvar_us = link->rttvar_us - link->rttvar_us / 4u + error / 4u;
        link->srtt_us = link->srtt_us - link->srtt_us / 8u + rtt_us / 8u;
    }
}

/* ---- slots ----------------------------------------------------------------------------------------------------------- */

static uint16_t isqrt(uint32_t value) {
    uint32_t root = 0;
    for (uint32_t bit = 1u << 15; bit != 0u; bit >>= 1) {
        uint32_t trial = root | bit;
        if (trial * trial <= value) {
            root = trial;
        }
    }
    return (uint16_t)root;
}

static struct fedge_send_slot *slot_of(struct fedge_link *link, uint16_t sequence) {
    return &link->send_slots[sequence % link->config.send_window];
}

static uint8_t *payload_of(const struct fedge_link *link, uint16_t sequence) {
    return link->send_memory + (size_t)(sequence % link->config.send_window) * link->config.max_payload;
}

/* With overhead h and byte error probability e, a frame of L payload bytes yields L/(L+h) * exp(-e(L+h)) of the line;
 * that is greatest near L = sqrt(h/e). */
static uint16_t best_payload(const struct fedge_link *link) {
    uint16_t best = isqrt((FEDGE_OVERHEAD_BYTES << 24) / (link->byte_errors_q24 + 1u));
    return (uint16_t)fedge_min32(fedge_max32(best, 48u), link->payload_limit);
}

static void error_sample(struct fedge_link *link, uint16_t payload_bytes, int lost) {
    uint32_t sample = lost ? (1u << 24) / (payload_bytes + FEDGE_OVERHEAD_BYTES) : 0u;
    link->byte_errors_q24 = link->byte_errors_q24 - link->byte_errors_q24 / 64u + sample / 64u;
}

static void arm_probe(struct fedge_link *link) {
    link->probe_timer_us = link->unacked == link->unused ? FEDGE_NEVER
                           : link->probe_backoff == 0u   ? first_probe_us(link)
                                                         : rto_us(link);
}

size_t fedge_link_send(struct fedge_link *link, uint8_t stream, const uint8_t *data, size_t length) {
    size_t taken = 0;
    uint16_t limit = best_payload(link);

    if (!link->up) {
        return 0;
    }
    while (taken < length) {
        uint16_t sequence = (uint16_t)(link->unused - 1u);
        struct fedge_send_slot *slot = slot_of(link, sequence);
        size_t chunk;

        if (link->unused == link->unsent || slot->stream != stream || slot->length >= limit) {
            if ((uint16_t)(link->unused - link->unacked) >= link->config.send_window) {
                break;
            }
            sequence = link->unused++;
            slot = slot_of(link, sequence);
            slot->stream = stream;
            slot->length = 0;
            slot->transmissions = 0;
            slot->state = SLOT_QUEUED;
        }
        chunk = (size_t)limit - slot->length;
        if (chunk > length - taken) {
            chunk = length - taken;
        }
        memcpy(payload_of(link, sequence) + slot->length, data + taken, chunk);
        slot->length = (uint16_t)(slot->length + chunk);
        taken += chunk;
    }
    if (link->probe_timer_us == FEDGE_NEVER) {
        arm_probe(link); /* without credit nothing flies that could be answered: ask for credit before long */
    }
    return taken;
}

size_t fedge_link_unacked_bytes(const struct fedge_link *link) {
    size_t bytes = 0;
    for (uint8_t i = 0; i < link->config.send_window; i++) {
        if (link->send_slots[i].state != SLOT_FREE) {
            bytes += link->send_slots[i].length;
        }
    }
    return bytes;
}

static int may_send_new(const struct fedge_link *link) {
    return link->unsent != link->unused && (uint16_t)(link->unsent - link->unacked) < link->peer_window &&
           fedge_distance(link->unsent, link->credit_edge) > 0;
}

/* The sequence number to send next: the oldest lost frame, else the first new one. Returns 0 if there is none. */
static int choose_data(const struct fedge_link *link, uint16_t *sequence) {
    for (uint16_t s = link->unacked; s != link->unsent; s++) {
        if (link->send_slots[s % link->config.send_window].state == SLOT_LOST) {
            *sequence = s;
            return 1;
        }
    }
    *sequence = link->unsent;
    return may_send_new(link);
}

/* In the middle of a transfer the window is full only because of a hole: ask at once what arrived, the line is idle anyway.
 * A window below 4 is full all the time; there the probe timer does. */
static int stalled(const struct fedge_link *link) {
    uint32_t window = fedge_min32(link->peer_window, link->config.send_window);
    int full = (uint16_t)(link->unsent - link->unacked) >= window;
    return full && link->sent_since_ping && window >= 4u;
}

static enum action next_action(const struct fedge_link *link) {
    uint16_t sequence;
    if (link->hello_due || link->hello_timer_us == 0u) {
        return DO_HELLO;
    }
    if (!link->up) {
        return DO_NOTHING;
    }
    if (link->pong_due) {
        return DO_PONG;
    }
    if (choose_data(link, &sequence)) {
        return DO_DATA;
    }
    if (link->probe_timer_us == 0u || link->keepalive_timer_us == 0u || stalled(link)) {
        return DO_PING;
    }
    return link->ack_now || link->ack_timer_us == 0u ? DO_ACK : DO_NOTHING;
}

static void begin_data(struct fedge_link *link, struct fedge_frame *frame) {
    struct fedge_send_slot *slot;
    (void)choose_data(link, &frame->sequence);
    slot = slot_of(link, frame->sequence);
    frame->type = FEDGE_DATA;
    frame->stream = slot->stream;
    frame->payload = payload_of(link, frame->sequence);
    frame->payload_bytes = slot->length;
    if (frame->sequence == link->unsent) {
        link->unsent++;
    } else {
        link->stats.frames_resent++;
    }
    slot->state = SLOT_FLYING;
    slot->sent_at_us = link->now_us;
    slot->ordinal = link->ordinal++;
    link->sent_since_ping = 1;
    slot->transmissions = (uint8_t)(slot->transmissions + (slot->transmissions < 255u));
    arm_probe(link);
}

/* A token stands for "everything sent before it". When nothing was sent since the last PING its token is used again, so a
 * silence of days cannot carry the ordinals round their circle. */
static void begin_ping(struct fedge_link *link, struct fedge_frame *frame) {
    if (link->sent_since_ping) {
        link->ping_token = link->ordinal++;
    }
    link->ping_ambiguous = !link->sent_since_ping;
    link->sent_since_ping = 0;
    if (link->probe_timer_us == 0u || link->keepalive_timer_us == 0u) {
        link->probe_backoff = (uint8_t)(link->probe_backoff + (link->probe_backoff < 16u));
    }
    if (link->keepalive_timer_us == 0u) {
        link->keepalive_timer_us = link->config.keepalive_us;
    }
    link->ping_sent_us = link->now_us;
    frame->type = FEDGE_PING;
    frame->sequence = link->ping_token;
    arm_probe(link);
}

size_t fedge_link_transmit(struct fedge_link *link, uint8_t *out, size_t capacity, uint32_t now_us) {
    struct fedge_frame frame;
    enum action action;
    size_t written = 0, lead = 0;
    uint16_t sequence;

    fedge_link_advance(link, now_us);
    action = next_action(link);
    if (action == DO_NOTHING || capacity < FEDGE_FRAME_ENCODED_BYTES((size_t)link->config.max_payload) ||
        (link->config.paced && link->line_busy_us > LEAD_US)) {
        return 0;
    }
    /* A delimiter in front parts the frame from noise that came before it. A new data frame close behind another frame
     * needs none; one that answers a failing line, or breaks a silence, does. */
    if (action != DO_DATA || !choose_data(link, &sequence) || sequence != link->unsent || link->line_busy_us == 0u) {
        out[lead++] = 0u;
    }
    memset(&frame, 0, sizeof frame);
    if (action == DO_HELLO) {
        written = fedge_session_write_hello(link, out + lead, capacity - lead);
    } else {
        frame.session = fedge_session_tag(link->config.epoch, link->peer_epoch);
        if (action == DO_DATA) {
            begin_data(link, &frame);
        } else if (action == DO_PING) {
            begin_ping(link, &frame);
        } else if (action == DO_PONG) {
            frame.type = FEDGE_PONG;
            frame.sequence = link->pong_token;
            link->pong_due = 0;
        } else {
            frame.type = FEDGE_ACK;
        }
        if (action == DO_PONG || action == DO_ACK || link->ack_now || link->acks_owed >= 2u) {
            fedge_receiver_attach_ack(link, &frame);
        }
        (void)fedge_frame_encode(&frame, out + lead, capacity - lead, &written); /* capacity was checked above */
    }
    written += lead;
    link->line_busy_us += fedge_airtime_us(link, (uint32_t)written);
    link->stats.frames_sent++;
    link->stats.bytes_sent += (uint32_t)written;
    return written;
}

uint32_t fedge_link_wakeup_us(const struct fedge_link *link) {
    uint32_t wait = 0;
    uint32_t pace = link->config.paced && link->line_busy_us > LEAD_US ? link->line_busy_us - LEAD_US : 0u;
    if (next_action(link) == DO_NOTHING) {
        wait = link->hello_timer_us;
        if (link->up) {
            wait = fedge_min32(wait, link->ack_timer_us);
            wait = fedge_min32(wait, link->probe_timer_us);
            wait = fedge_min32(wait, link->keepalive_timer_us);
        }
    }
    return wait == FEDGE_NEVER ? FEDGE_NEVER : fedge_max32(wait, pace);
}

/* ---- acknowledgements ------------------------------------------------------------------------------------------------ */

void fedge_sender_take_ack(struct fedge_link *link, const struct fedge_frame *frame) {
    int32_t advance_by = fedge_distance(link->unacked, frame->ack);
    uint16_t newest = 0, edge;
    int any = 0, measurable = 0;
    uint32_t sent_at_us = 0;

    if (advance_by < 0 || advance_by > fedge_distance(link->unacked, link->unsent)) {
        return; /* overtaken by a later one, or a lie */
    }
    for (uint16_t s = link->unacked; s != link->unsent; s++) {
        struct fedge_send_slot *slot = slot_of(link, s);
        int32_t ahead = fedge_distance(frame->ack, s);
        int acknowledged = ahead < 0 || (ahead >= 1 && ahead <= 8 && ((frame->sack >> (ahead - 1)) & 1) != 0);
        if (acknowledged && (slot->state == SLOT_FLYING || slot->state == SLOT_LOST)) {
            if (!any || fedge_distance(newest, slot->ordinal) > 0) {
                newest = slot->ordinal;
                measurable = slot->transmissions == 1u; /* Karn: else unknown which copy this answers */
                sent_at_us = slot->sent_at_us;
            }
            any = 1;
            error_sample(link, slot->length, 0);
            slot->state = SLOT_SACKED;
        }
        if (ahead < 0) {
            slot->state = SLOT_FREE;
        }
    }
    link->unacked = frame->ack;
    edge = (uint16_t)(frame->ack + frame->credit);
    if (frame->credit <= FEDGE_WINDOW && fedge_distance(link->credit_edge, edge) > 0) {
        link->credit_edge = edge; /* credit is never taken back, so an older edge is merely old */
        link->probe_backoff = 0;
    }
    if (any) {
        link->probe_backoff = 0;
        if (measurable) {
            rtt_sample(link, link->now_us - sent_at_us);
        }
        for (uint16_t s = link->unacked; s != link->unsent; s++) {
            struct fedge_send_slot *slot = slot_of(link, s);
            if (slot->state == SLOT_FLYING && fedge_distance(slot->ordinal, newest) > 0) {
                slot->state = SLOT_LOST;
                error_sample(link, slot->length, 1);
            }
        }
    }
    arm_probe(link);
}

void fedge_sender_take_pong(struct fedge_link *link, const struct fedge_frame *frame) {
    if (frame->sequence != link->ping_token) {
        return;
    }
    if (!link->ping_ambiguous) {
        rtt_sample(link, link->now_us - link->ping_sent_us);
        link->ping_ambiguous = 1; /* one sample a PING */
    }
    link->probe_backoff = 0;
    for (uint16_t s = link->unacked; s != link->unsent; s++) {
        struct fedge_send_slot *slot = slot_of(link, s);
        if (slot->state == SLOT_FLYING && fedge_distance(slot->ordinal, frame->sequence) > 0) {
            slot->state = SLOT_LOST;
            error_sample(link, slot->length, 1);
        }
    }
    arm_probe(link);
}
