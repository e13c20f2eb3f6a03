#include "fedge_link.h"

#include <string.h>

#include "fedge_bytes.h"

#define HELLO_BYTES 13u /* version, flags, epoch, peer's epoch, max payload, window; then the identity */
#define HELLO_WANTS_REPLY 0x01u
#define FIRST_HELLO_US 250000u
#define LAST_HELLO_US 2000000u
#define PROBE_CAP_US 1000000u
#define LEAD_US 10000u /* bytes given out ahead of the line, so that a late wake-up leaves no gap */
#define OVERHEAD_BYTES 12u /* header, CRC, COBS, delimiter: what a data frame costs beyond its payload */

enum slot_state { SLOT_FREE, SLOT_QUEUED, SLOT_FLYING, SLOT_LOST, SLOT_SACKED };
enum pending { PENDING_RESET = 1, PENDING_UP = 2, PENDING_INCOMPATIBLE = 4, PENDING_DATA = 8, PENDING_STORED = 16 };
enum action { DO_NOTHING, DO_HELLO, DO_PONG, DO_DATA, DO_PING, DO_ACK };

/* ---- small arithmetic --------------------------------------------------------------------------------------------- */

static uint32_t min32(uint32_t a, uint32_t b) { return a < b ? a : b; }
static uint32_t max32(uint32_t a, uint32_t b) { return a > b ? a : b; }

/* How far b lies after a in the circle of sequence numbers: negative when before. */
static int32_t distance(uint16_t a, uint16_t b) {
    uint16_t d = (uint16_t)(b - a);
    return d < 0x8000u ? (int32_t)d : (int32_t)d - 0x10000;
}

static uint32_t airtime_us(const struct fedge_link *link, uint32_t bytes) {
    /* bytes < 4096, so 10^7 * bytes needs 64 bits; a 32-bit quotient of whole microseconds a byte would be 0 at 10 Mb/s. */
    return (uint32_t)((uint64_t)bytes * 10000000u / link->config.line_rate_bps);
}

static uint32_t frame_airtime_us(const struct fedge_link *link) {
    return airtime_us(link, link->payload_limit + OVERHEAD_BYTES);
}

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

uint16_t fedge_session_tag(uint32_t from, uint32_t to) {
    uint8_t pair[8];
    uint32_t crc;
    fedge_store32(pair, from);
    fedge_store32(pair + 4, to);
    crc = fedge_crc32(0u, pair, sizeof pair);
    return (uint16_t)((crc >> 16) ^ (crc & 0xFFFFu));
}

/* ---- time --------------------------------------------------------------------------------------------------------- */

static void count_down(uint32_t *timer, uint32_t elapsed) {
    if (*timer != FEDGE_NEVER) {
        *timer -= min32(*timer, elapsed);
    }
}

/* Timers count down instead of naming an instant: nothing is ever compared across the wrap of the clock. */
static void advance(struct fedge_link *link, uint32_t now_us) {
    uint32_t elapsed = now_us - link->now_us;
    link->now_us = now_us;
    count_down(&link->hello_timer_us, elapsed);
    count_down(&link->ack_timer_us, elapsed);
    count_down(&link->probe_timer_us, elapsed);
    count_down(&link->keepalive_timer_us, elapsed);
    link->line_busy_us -= min32(link->line_busy_us, elapsed);
    link->quiet_us += min32(FEDGE_NEVER - link->quiet_us, elapsed);
}

/* 1.5 windows of airtime: an acknowledgement may honestly wait behind a full window in the other direction. */
static uint32_t rto_us(const struct fedge_link *link) {
    uint32_t floor = frame_airtime_us(link) * FEDGE_WINDOW * 3u / 2u;
    uint32_t rto = link->srtt_us == 0u ? 300000u : link->srtt_us + max32(1000u, 4u * link->rttvar_us);
    rto = max32(rto, floor);
    for (uint8_t i = 0; i < link->probe_backoff && rto < PROBE_CAP_US; i++) {
        rto *= 2u;
    }
    return min32(rto, max32(PROBE_CAP_US, floor));
}

/* The first question after the last frame costs 13 bytes, so it may come earlier than the RTO of RFC 6298. */
static uint32_t first_probe_us(const struct fedge_link *link) {
    uint32_t soon = link->srtt_us + max32(1000u, 4u * link->rttvar_us) + 2u * frame_airtime_us(link);
    return link->srtt_us == 0u ? rto_us(link) : min32(soon, rto_us(link));
}

static void rtt_sample(struct fedge_link *link, uint32_t rtt_us) {
    rtt_us = min32(max32(rtt_us, 1u), 60000000u);
    if (link->srtt_us == 0u) {
        link->srtt_us = rtt_us;
        link->rttvar_us = rtt_us / 2u;
    } else { /* RFC 6298 (2.3) */
        uint32_t error = link->srtt_us > rtt_us ? link->srtt_us - rtt_us : rtt_us - link->srtt_us;
        link->rttvar_us = link->rttvar_us - link->rttvar_us / 4u + error / 4u;
        link->srtt_us = link->srtt_us - link->srtt_us / 8u + rtt_us / 8u;
    }
}

/* ---- sessions ----------------------------------------------------------------------------------------------------- */

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
    link->payload_limit = (uint16_t)min32(payload, link->config.max_payload);
    link->peer_window = (uint8_t)min32(body[12], FEDGE_WINDOW);
    link->heard_peer = 1;
    if (to == link->config.epoch && !link->up) {
        link->peer_identity_at = (uint8_t)(FEDGE_HEADER_BYTES + HELLO_BYTES);
        link->peer_identity_bytes = (uint8_t)(frame->payload_bytes - HELLO_BYTES);
        come_up(link);
    }
}

static size_t write_hello(struct fedge_link *link, uint8_t *out, size_t capacity) {
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
    link->hello_interval_us = min32(link->hello_interval_us * 2u, LAST_HELLO_US);
    return written;
}

/* ---- sending ------------------------------------------------------------------------------------------------------ */

static struct fedge_send_slot *slot_of(struct fedge_link *link, uint16_t sequence) {
    return &link->send_slots[sequence % link->config.send_window];
}

static uint8_t *payload_of(const struct fedge_link *link, uint16_t sequence) {
    return link->send_memory + (size_t)(sequence % link->config.send_window) * link->config.max_payload;
}

/* With overhead h and byte error probability e, a frame of L payload bytes yields L/(L+h) * exp(-e(L+h)) of the line;
 * that is greatest near L = sqrt(h/e). */
static uint16_t best_payload(const struct fedge_link *link) {
    uint16_t best = isqrt((OVERHEAD_BYTES << 24) / (link->byte_errors_q24 + 1u));
    return (uint16_t)min32(max32(best, 48u), link->payload_limit);
}

static void error_sample(struct fedge_link *link, uint16_t payload_bytes, int lost) {
    uint32_t sample = lost ? (1u << 24) / (payload_bytes + OVERHEAD_BYTES) : 0u;
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
        chunk = min32((uint32_t)(limit - slot->length), (uint32_t)min32(FEDGE_MAX_PAYLOAD, (uint32_t)(length - taken)));
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
           distance(link->unsent, link->credit_edge) > 0;
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
    uint32_t window = min32(link->peer_window, link->config.send_window);
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

static uint8_t sack_bitmap(const struct fedge_link *link) {
    unsigned bits = 0;
    for (uint8_t i = 0; i + 1u < link->config.receive_window; i++) {
        int32_t ahead = distance(link->expected, link->receive_slots[i].sequence);
        if (link->receive_slots[i].used && ahead >= 1 && ahead <= 8) {
            bits |= 1u << (ahead - 1);
        }
    }
    return (uint8_t)bits;
}

static void attach_ack(struct fedge_link *link, struct fedge_frame *frame) {
    frame->flags = FEDGE_FLAG_ACK;
    frame->ack = link->expected;
    frame->sack = sack_bitmap(link);
    frame->credit = (uint8_t)min32(link->credit, link->config.receive_window);
    link->advertised_edge = (uint16_t)(link->expected + frame->credit);
    link->ack_now = 0;
    link->acks_owed = 0;
    link->ack_timer_us = FEDGE_NEVER;
}

size_t fedge_link_transmit(struct fedge_link *link, uint8_t *out, size_t capacity, uint32_t now_us) {
    struct fedge_frame frame;
    enum action action;
    size_t written = 0, lead = 0;
    uint16_t sequence;

    advance(link, now_us);
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
        written = write_hello(link, out + lead, capacity - lead);
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
            attach_ack(link, &frame);
        }
        (void)fedge_frame_encode(&frame, out + lead, capacity - lead, &written); /* capacity was checked above */
    }
    written += lead;
    link->line_busy_us += airtime_us(link, (uint32_t)written);
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
            wait = min32(wait, min32(link->ack_timer_us, min32(link->probe_timer_us, link->keepalive_timer_us)));
        }
    }
    return wait == FEDGE_NEVER ? FEDGE_NEVER : max32(wait, pace);
}

/* ---- receiving ---------------------------------------------------------------------------------------------------- */

static void receive_ack(struct fedge_link *link, const struct fedge_frame *frame) {
    int32_t advance_by = distance(link->unacked, frame->ack);
    uint16_t newest = 0, edge;
    int any = 0, measurable = 0;
    uint32_t sent_at_us = 0;

    if (advance_by < 0 || advance_by > distance(link->unacked, link->unsent)) {
        return; /* overtaken by a later one, or a lie */
    }
    for (uint16_t s = link->unacked; s != link->unsent; s++) {
        struct fedge_send_slot *slot = slot_of(link, s);
        int32_t ahead = distance(frame->ack, s);
        int acknowledged = ahead < 0 || (ahead >= 1 && ahead <= 8 && ((frame->sack >> (ahead - 1)) & 1) != 0);
        if (acknowledged && (slot->state == SLOT_FLYING || slot->state == SLOT_LOST)) {
            if (!any || distance(newest, slot->ordinal) > 0) {
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
    if (frame->credit <= FEDGE_WINDOW && distance(link->credit_edge, edge) > 0) {
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
            if (slot->state == SLOT_FLYING && distance(slot->ordinal, newest) > 0) {
                slot->state = SLOT_LOST;
                error_sample(link, slot->length, 1);
            }
        }
    }
    arm_probe(link);
}

static void receive_pong(struct fedge_link *link, const struct fedge_frame *frame) {
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
        if (slot->state == SLOT_FLYING && distance(slot->ordinal, frame->sequence) > 0) {
            slot->state = SLOT_LOST;
            error_sample(link, slot->length, 1);
        }
    }
    arm_probe(link);
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
    int32_t ahead = distance(link->expected, frame->sequence);
    int had_holes = sack_bitmap(link) != 0u;

    if (frame->payload_bytes > link->config.max_payload) {
        link->stats.frames_bad++;
    } else if (ahead < 0 || ahead >= (int32_t)min32(link->credit, link->config.receive_window)) {
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
            link->ack_timer_us = min32(max32(frame_airtime_us(link) * 5u / 4u, 4000u), 100000u);
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
        receive_ack(link, &frame);
    }
    if (frame.type == FEDGE_DATA) {
        receive_data(link, &frame);
    } else if (frame.type == FEDGE_PING) {
        link->pong_token = frame.sequence;
        link->pong_due = 1;
    } else if (frame.type == FEDGE_PONG) {
        receive_pong(link, &frame);
    }
}

size_t fedge_link_receive(struct fedge_link *link, const uint8_t *data, size_t length, uint32_t now_us) {
    size_t taken = 0;
    advance(link, now_us);
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
    edge = (uint16_t)(link->expected + min32(frames, link->config.receive_window));
    /* Tell a peer that has used up half of what it was told; the rest rides on ordinary acknowledgements. */
    if (link->up && distance(link->expected, link->advertised_edge) * 2 <= link->config.receive_window &&
        distance(link->advertised_edge, edge) > 0) {
        link->ack_now = 1;
    }
}

static int deliver(struct fedge_link *link, struct fedge_event *event, uint8_t stream, const uint8_t *data, uint16_t length) {
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
