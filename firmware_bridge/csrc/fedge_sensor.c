#include "fedge_sensor.h"

#include <string.h>

#include "fedge_bytes.h"

#define DESCRIBE_HEAD_BYTES 6u /* sample type, channel count, rate */
#define MAX_RATE_MHZ 1000000000u

size_t fedge_sample_bytes(uint8_t sample_type) {
    return sample_type == FEDGE_INT16 ? 2u : sample_type == FEDGE_INT32 ? 4u : 0u;
}

/* ---- records from a stream ---------------------------------------------------------------------------------------- */

void fedge_record_reader_init(struct fedge_record_reader *reader, uint8_t *body, uint16_t capacity) {
    memset(reader, 0, sizeof *reader);
    reader->body = body;
    reader->capacity = capacity;
}

int fedge_record_push(struct fedge_record_reader *reader, uint8_t byte) {
    if (reader->broken) {
        return FEDGE_ERR_TOO_LONG;
    }
    if (reader->head_filled == FEDGE_RECORD_HEADER_BYTES && reader->filled == reader->length) {
        reader->head_filled = 0; /* the record before was handed out */
    }
    if (reader->head_filled < FEDGE_RECORD_HEADER_BYTES) {
        reader->head[reader->head_filled++] = byte;
        if (reader->head_filled < FEDGE_RECORD_HEADER_BYTES) {
            return FEDGE_OK;
        }
        reader->length = fedge_load16(reader->head + 1);
        reader->filled = 0;
        if (reader->length > reader->capacity) {
            reader->broken = 1;
            return FEDGE_ERR_TOO_LONG;
        }
    } else {
        reader->body[reader->filled++] = byte;
    }
    return reader->filled == reader->length ? FEDGE_FRAME_READY : FEDGE_OK;
}

static int begin_record(uint8_t type, size_t body_bytes, uint8_t *out, size_t capacity) {
    if (body_bytes > FEDGE_RECORD_MAX_BODY) {
        return FEDGE_ERR_TOO_LONG;
    }
    if (capacity < FEDGE_RECORD_HEADER_BYTES + body_bytes) {
        return FEDGE_ERR_SPACE;
    }
    out[0] = type;
    fedge_store16(out + 1, (uint16_t)body_bytes);
    return (int)(FEDGE_RECORD_HEADER_BYTES + body_bytes);
}

/* ---- DESCRIBE ----------------------------------------------------------------------------------------------------- */

static int is_finite(uint32_t float_bits) { return (float_bits & 0x7F800000u) != 0x7F800000u; }

static int good_text(const struct fedge_text *text) {
    if (text->length > FEDGE_MAX_TEXT) {
        return 0;
    }
    for (uint8_t i = 0; i < text->length; i++) {
        uint8_t c = (uint8_t)text->bytes[i];
        if (c < 0x20u || c == 0x7Fu) {
            return 0; /* control characters would reach a terminal */
        }
    }
    return 1;
}

static int good_describe(const struct fedge_describe *d) {
    return fedge_sample_bytes(d->sample_type) != 0u && d->channel_count >= 1u && d->channel_count <= FEDGE_MAX_CHANNELS &&
           d->rate_mhz >= 1u && d->rate_mhz <= MAX_RATE_MHZ;
}

static int good_channel(const struct fedge_channel *c) {
    return c->name.length >= 1u && is_finite(c->scale_bits) && (c->scale_bits & 0x7FFFFFFFu) != 0u &&
           is_finite(c->offset_bits);
}

static uint8_t *put_text(uint8_t *at, const struct fedge_text *text) {
    *at++ = text->length;
    if (text->length != 0u) {
        memcpy(at, text->bytes, text->length);
    }
    return at + text->length;
}

int fedge_write_describe(const struct fedge_describe *describe, const struct fedge_channel *channels, uint8_t *out,
                         size_t capacity) {
    size_t body = DESCRIBE_HEAD_BYTES + 1u + describe->sensor.length;
    uint8_t *at;
    int size;

    if (!good_describe(describe) || !good_text(&describe->sensor)) {
        return FEDGE_ERR_ARGUMENT;
    }
    for (uint8_t i = 0; i < describe->channel_count; i++) {
        if (!good_channel(&channels[i]) || !good_text(&channels[i].name) || !good_text(&channels[i].unit)) {
            return FEDGE_ERR_ARGUMENT;
        }
        body += 10u + (size_t)channels[i].name.length + channels[i].unit.length;
    }
    size = begin_record(FEDGE_RECORD_DESCRIBE, body, out, capacity);
    if (size < 0) {
        return size;
    }
    at = out + FEDGE_RECORD_HEADER_BYTES;
    at[0] = describe->sample_type;
    at[1] = describe->channel_count;
    fedge_store32(at + 2, describe->rate_mhz);
    at = put_text(at + DESCRIBE_HEAD_BYTES, &describe->sensor);
    for (uint8_t i = 0; i < describe->channel_count; i++) {
        fedge_store32(at, channels[i].scale_bits);
        fedge_store32(at + 4, channels[i].offset_bits);
        at = put_text(put_text(at + 8, &channels[i].name), &channels[i].unit);
    }
    return size;
}

/* Moves *at past one text; 0 if it does not fit before `end`. */
static int take_text(const uint8_t **at, const uint8_t *end, struct fedge_text *text) {
    size_t left = (size_t)(end - *at);
    if (left < 1u || left - 1u < **at) {
        return 0;
    }
    text->length = **at;
    text->bytes = (const char *)(*at + 1);
    *at += 1u + text->length;
    return good_text(text);
}

int fedge_read_describe(const uint8_t *body, size_t length, struct fedge_describe *describe,
                        struct fedge_channel *channels) {
    const uint8_t *at = body + DESCRIBE_HEAD_BYTES, *end = body + length;

    if (length < DESCRIBE_HEAD_BYTES) {
        return FEDGE_ERR_RECORD;
    }
    describe->sample_type = body[0];
    describe->channel_count = body[1];
    describe->rate_mhz = fedge_load32(body + 2);
    if (!good_describe(describe) || !take_text(&at, end, &describe->sensor)) {
        return FEDGE_ERR_RECORD;
    }
    for (uint8_t i = 0; i < describe->channel_count; i++) {
        struct fedge_channel *channel = &channels[i];
        if (end - at < 8) {
            return FEDGE_ERR_RECORD;
        }
        channel->scale_bits = fedge_load32(at);
        channel->offset_bits = fedge_load32(at + 4);
        at += 8;
        if (!take_text(&at, end, &channel->name) || !take_text(&at, end, &channel->unit) || !good_channel(channel)) {
            return FEDGE_ERR_RECORD;
        }
    }
    return at == end ? FEDGE_OK : FEDGE_ERR_RECORD;
}

/* ---- SAMPLES ------------------------------------------------------------------------------------------------------ */

/* The product of a u16, a u8 and 4 fits in 32 bits: no declared size can wrap. */
static uint32_t values_bytes(const struct fedge_samples *s) {
    return (uint32_t)s->count * s->channel_count * (uint32_t)fedge_sample_bytes(s->sample_type);
}

static int good_samples(const struct fedge_samples *s) {
    return s->count >= 1u && s->channel_count >= 1u && s->channel_count <= FEDGE_MAX_CHANNELS &&
           fedge_sample_bytes(s->sample_type) != 0u;
}

int fedge_write_samples(const struct fedge_samples *samples, uint8_t *out, size_t capacity) {
    uint32_t bytes = values_bytes(samples);
    uint8_t *at = out + FEDGE_RECORD_HEADER_BYTES;
    int size;

    if (!good_samples(samples)) {
        return FEDGE_ERR_ARGUMENT;
    }
    size = begin_record(FEDGE_RECORD_SAMPLES, FEDGE_SAMPLES_HEAD_BYTES + (size_t)bytes, out, capacity);
    if (size < 0) {
        return size;
    }
    fedge_store64(at, samples->first_us);
    fedge_store32(at + 8, samples->sequence);
    fedge_store32(at + 12, samples->dropped);
    fedge_store16(at + 16, samples->count);
    at[18] = samples->channel_count;
    at[19] = samples->sample_type;
    fedge_store16(at + 20, 0u);
    memcpy(at + FEDGE_SAMPLES_HEAD_BYTES, samples->values, bytes);
    return size;
}

int fedge_read_samples(const uint8_t *body, size_t length, struct fedge_samples *samples) {
    if (length < FEDGE_SAMPLES_HEAD_BYTES) {
        return FEDGE_ERR_RECORD;
    }
    samples->first_us = fedge_load64(body);
    samples->sequence = fedge_load32(body + 8);
    samples->dropped = fedge_load32(body + 12);
    samples->count = fedge_load16(body + 16);
    samples->channel_count = body[18];
    samples->sample_type = body[19];
    samples->values = body + FEDGE_SAMPLES_HEAD_BYTES;
    if (!good_samples(samples) || fedge_load16(body + 20) != 0u ||
        length - FEDGE_SAMPLES_HEAD_BYTES != (size_t)values_bytes(samples)) {
        return FEDGE_ERR_RECORD;
    }
    return FEDGE_OK;
}

/* ---- commands and their answers ----------------------------------------------------------------------------------- */

int fedge_write_command(const struct fedge_command *command, uint8_t *out, size_t capacity) {
    size_t body = command->type == FEDGE_RECORD_SET_RATE ? 5u : 1u;
    int size;
    if (command->type < FEDGE_RECORD_ASK || command->type > FEDGE_RECORD_ASK_TIME) {
        return FEDGE_ERR_ARGUMENT;
    }
    size = begin_record(command->type, body, out, capacity);
    if (size < 0) {
        return size;
    }
    out[3] = command->id;
    if (command->type == FEDGE_RECORD_SET_RATE) {
        fedge_store32(out + 4, command->rate_mhz);
    }
    return size;
}

int fedge_read_command(uint8_t type, const uint8_t *body, size_t length, struct fedge_command *command) {
    if (type < FEDGE_RECORD_ASK || type > FEDGE_RECORD_ASK_TIME ||
        length != (type == FEDGE_RECORD_SET_RATE ? 5u : 1u)) {
        return FEDGE_ERR_RECORD;
    }
    command->type = type;
    command->id = body[0];
    command->rate_mhz = type == FEDGE_RECORD_SET_RATE ? fedge_load32(body + 1) : 0u;
    return FEDGE_OK;
}

int fedge_write_result(const struct fedge_command_result *result, uint8_t *out, size_t capacity) {
    int size = begin_record(FEDGE_RECORD_RESULT, 3u, out, capacity);
    if (size > 0) {
        out[3] = result->id;
        out[4] = result->type;
        out[5] = result->result;
    }
    return size;
}

int fedge_read_result(const uint8_t *body, size_t length, struct fedge_command_result *result) {
    if (length != 3u || body[2] > FEDGE_NOT_NOW) {
        return FEDGE_ERR_RECORD;
    }
    result->id = body[0];
    result->type = body[1];
    result->result = body[2];
    return FEDGE_OK;
}

int fedge_write_time(const struct fedge_board_time *time, uint8_t *out, size_t capacity) {
    int size = begin_record(FEDGE_RECORD_TIME, 9u, out, capacity);
    if (size > 0) {
        out[3] = time->id;
        fedge_store64(out + 4, time->board_us);
    }
    return size;
}

int fedge_read_time(const uint8_t *body, size_t length, struct fedge_board_time *time) {
    if (length != 9u) {
        return FEDGE_ERR_RECORD;
    }
    time->id = body[0];
    time->board_us = fedge_load64(body + 1);
    return FEDGE_OK;
}

int fedge_write_end(uint32_t dropped, uint8_t *out, size_t capacity) {
    int size = begin_record(FEDGE_RECORD_END, 4u, out, capacity);
    if (size > 0) {
        fedge_store32(out + 3, dropped);
    }
    return size;
}

int fedge_read_end(const uint8_t *body, size_t length, uint32_t *dropped) {
    if (length != 4u) {
        return FEDGE_ERR_RECORD;
    }
    *dropped = fedge_load32(body);
    return FEDGE_OK;
}
