/* A stream of records by which a board describes its sensor and sends samples. SPEC.md has every byte.
 *
 * Records travel as bytes of one link stream (FEDGE_SENSOR_STREAM): the link keeps order but may cut anywhere, so each
 * record begins with its type and its length, and fedge_record_push puts it together again.
 *
 * Values are integers as the converter gave them; physical = scale * value + offset.
 */
#ifndef FEDGE_SENSOR_H
#define FEDGE_SENSOR_H

#include "fedge_frame.h"

#define FEDGE_SENSOR_STREAM 1u
#define FEDGE_RECORD_HEADER_BYTES 3u /* type u8, body length u16 */
#define FEDGE_RECORD_MAX_BODY 1024u
#define FEDGE_MAX_CHANNELS 32u
#define FEDGE_MAX_TEXT 31u /* bytes of a name or a unit, UTF-8 */
#define FEDGE_SAMPLES_HEAD_BYTES 22u

enum fedge_record_type {
    FEDGE_RECORD_DESCRIBE = 1, /* board: what I measure; in answer to ASK */
    FEDGE_RECORD_SAMPLES = 2,  /* board: a batch */
    FEDGE_RECORD_RESULT = 3,   /* board: what became of a command */
    FEDGE_RECORD_TIME = 4,     /* board: its clock, in answer to ASK_TIME */
    FEDGE_RECORD_END = 5,      /* board: the recording is over; no samples follow until START */
    FEDGE_RECORD_ASK = 16,     /* host: describe yourself */
    FEDGE_RECORD_START = 17,   /* host */
    FEDGE_RECORD_STOP = 18,    /* host */
    FEDGE_RECORD_SET_RATE = 19, /* host: samples per second and channel, in mHz */
    FEDGE_RECORD_ASK_TIME = 20 /* host */
};

enum fedge_sample_type { FEDGE_INT16 = 1, FEDGE_INT32 = 2 };

enum fedge_result { FEDGE_DONE = 0, FEDGE_UNKNOWN = 1, FEDGE_OUT_OF_RANGE = 2, FEDGE_NOT_NOW = 3 };

struct fedge_text {
    const char *bytes; /* not terminated */
    uint8_t length;
};

struct fedge_channel {
    struct fedge_text name, unit; /* unit in the style of UCUM: "m/s2", "mV", "Cel", "1" */
    uint32_t scale_bits, offset_bits; /* IEEE 754 single; both finite, scale not zero */
};

struct fedge_describe {
    struct fedge_text sensor;
    uint32_t rate_mhz; /* nominal, 1..10^9: samples per second and channel, times 1000 */
    uint8_t sample_type;
    uint8_t channel_count; /* 1..FEDGE_MAX_CHANNELS */
};

struct fedge_samples {
    uint64_t first_us;  /* board clock at the first sample */
    uint32_t sequence;  /* of the first sample since START, dropped ones counted */
    uint32_t dropped;   /* samples per channel dropped since START */
    uint16_t count;     /* samples per channel, >= 1 */
    uint8_t channel_count;
    uint8_t sample_type;
    const uint8_t *values; /* count * channel_count values, little-endian, interleaved by channel */
};

struct fedge_command {
    uint8_t type;      /* FEDGE_RECORD_ASK .. FEDGE_RECORD_ASK_TIME */
    uint8_t id;        /* comes back in the RESULT or TIME */
    uint32_t rate_mhz; /* SET_RATE only */
};

struct fedge_board_time {
    uint64_t board_us;
    uint8_t id;
};

struct fedge_command_result {
    uint8_t id, type, result;
};

/* A record being put together from a stream, in caller's memory of at most `capacity` body bytes. */
struct fedge_record_reader {
    uint8_t *body;
    uint16_t capacity;
    uint16_t filled;
    uint16_t length;
    uint8_t head[FEDGE_RECORD_HEADER_BYTES];
    uint8_t head_filled;
    uint8_t broken; /* a length was refused: nothing after it can be trusted */
};

void fedge_record_reader_init(struct fedge_record_reader *reader, uint8_t *body, uint16_t capacity);

/* Takes one byte. FEDGE_OK: go on. FEDGE_FRAME_READY: head[0] is the type, body[0..length) the body, until the next call.
 * FEDGE_ERR_TOO_LONG: the declared length exceeds the capacity; the stream has lost its step for good and every further
 * byte is refused, since the link below does not lose bytes: the peer does not speak this protocol. */
int fedge_record_push(struct fedge_record_reader *reader, uint8_t byte);

/* Encoders write a whole record and return its size, or a negative fedge_status and nothing. */
int fedge_write_describe(const struct fedge_describe *describe, const struct fedge_channel *channels, uint8_t *out,
                         size_t capacity);
int fedge_write_samples(const struct fedge_samples *samples, uint8_t *out, size_t capacity);
int fedge_write_command(const struct fedge_command *command, uint8_t *out, size_t capacity);
int fedge_write_result(const struct fedge_command_result *result, uint8_t *out, size_t capacity);
int fedge_write_time(const struct fedge_board_time *time, uint8_t *out, size_t capacity);
int fedge_write_end(uint32_t dropped, uint8_t *out, size_t capacity);

/* Decoders read a body of exactly `length` bytes: FEDGE_OK, or FEDGE_ERR_RECORD if any byte is missing, left over or out of
 * range. Text and values point into the body. `channels` has room for FEDGE_MAX_CHANNELS. */
int fedge_read_describe(const uint8_t *body, size_t length, struct fedge_describe *describe, struct fedge_channel *channels);
int fedge_read_samples(const uint8_t *body, size_t length, struct fedge_samples *samples);
int fedge_read_command(uint8_t type, const uint8_t *body, size_t length, struct fedge_command *command);
int fedge_read_result(const uint8_t *body, size_t length, struct fedge_command_result *result);
int fedge_read_time(const uint8_t *body, size_t length, struct fedge_board_time *time);
int fedge_read_end(const uint8_t *body, size_t length, uint32_t *dropped);

/* Bytes of one value: 2 or 4; 0 for an unknown type. */
size_t fedge_sample_bytes(uint8_t sample_type);

#endif
