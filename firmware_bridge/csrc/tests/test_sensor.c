#include "check.h"
#include "fedge_bytes.h"
#include "fedge_sensor.h"

static struct fedge_describe describe;
static struct fedge_channel channels[FEDGE_MAX_CHANNELS];
static struct fedge_samples samples;

/* Reads a body as its type says and writes it again; the size of the record, or a negative status. */
static int rewrite(uint8_t type, const uint8_t *body, size_t length, uint8_t *out, size_t capacity) {
    struct fedge_command command;
    struct fedge_command_result result;
    struct fedge_board_time time;
    uint32_t dropped;
    int status;

    switch (type) {
    case FEDGE_RECORD_DESCRIBE:
        status = fedge_read_describe(body, length, &describe, channels);
        return status < 0 ? status : fedge_write_describe(&describe, channels, out, capacity);
    case FEDGE_RECORD_SAMPLES:
        status = fedge_read_samples(body, length, &samples);
        return status < 0 ? status : fedge_write_samples(&samples, out, capacity);
    case FEDGE_RECORD_RESULT:
        status = fedge_read_result(body, length, &result);
        return status < 0 ? status : fedge_write_result(&result, out, capacity);
    case FEDGE_RECORD_TIME:
        status = fedge_read_time(body, length, &time);
        return status < 0 ? status : fedge_write_time(&time, out, capacity);
    case FEDGE_RECORD_END:
        status = fedge_read_end(body, length, &dropped);
        return status < 0 ? status : fedge_write_end(dropped, out, capacity);
    default:
        status = fedge_read_command(type, body, length, &command);
        return status < 0 ? status : fedge_write_command(&command, out, capacity);
    }
}

static void check_record(char **fields) {
    uint8_t record[FEDGE_RECORD_HEADER_BYTES + FEDGE_RECORD_MAX_BODY], out[sizeof record], body[FEDGE_RECORD_MAX_BODY];
    size_t length = unhex(fields[1], record, sizeof record);
    struct fedge_record_reader reader;
    int status = FEDGE_OK;

    fedge_record_reader_init(&reader, body, sizeof body);
    for (size_t i = 0; i < length; i++) {
        CHECK(status == FEDGE_OK);
        status = fedge_record_push(&reader, record[i]);
    }
    CHECK(status == FEDGE_FRAME_READY && reader.head[0] == record[0]);
    CHECK(rewrite(reader.head[0], body, reader.length, out, sizeof out) == (int)length);
    CHECK(memcmp(out, record, length) == 0);

    for (size_t shorter = 0; shorter < reader.length; shorter++) { /* exact allocation, so that a sanitizer sees a byte too far */
        uint8_t *copy = malloc(shorter + 1);
        CHECK(copy != NULL);
        memcpy(copy, body, shorter);
        CHECK(rewrite(record[0], copy, shorter, out, sizeof out) == FEDGE_ERR_RECORD);
        free(copy);
    }
    body[reader.length] = 0;
    CHECK(rewrite(record[0], body, (size_t)reader.length + 1u, out, sizeof out) == FEDGE_ERR_RECORD);
}

static void refuses_what_no_sensor_says(void) {
    uint8_t out[FEDGE_RECORD_HEADER_BYTES + FEDGE_RECORD_MAX_BODY], body[FEDGE_RECORD_MAX_BODY];
    struct fedge_describe d = {{"s", 1}, 1000, FEDGE_INT16, 1};
    struct fedge_channel c = {{"x", 1}, {"1", 1}, 0x3F800000u, 0u};
    int size = fedge_write_describe(&d, &c, out, sizeof out);

    CHECK(size > 0);
    memcpy(body, out + 3, (size_t)size - 3u);
    fedge_store32(body + 8, 0x7FC00000u); /* scale NaN */
    CHECK(fedge_read_describe(body, (size_t)size - 3u, &describe, channels) == FEDGE_ERR_RECORD);
    fedge_store32(body + 8, 0u); /* scale zero */
    CHECK(fedge_read_describe(body, (size_t)size - 3u, &describe, channels) == FEDGE_ERR_RECORD);
    c.scale_bits = 0x7F800000u;
    CHECK(fedge_write_describe(&d, &c, out, sizeof out) == FEDGE_ERR_ARGUMENT);
    c.scale_bits = 0x3F800000u;
    d.channel_count = 0;
    CHECK(fedge_write_describe(&d, &c, out, sizeof out) == FEDGE_ERR_ARGUMENT);

    memset(body, 0xFF, sizeof body); /* 65535 samples of 255 channels */
    CHECK(fedge_read_samples(body, sizeof body, &samples) == FEDGE_ERR_RECORD);
    body[18] = 32;
    body[19] = FEDGE_INT32;
    body[20] = body[21] = 0;
    CHECK(fedge_read_samples(body, sizeof body, &samples) == FEDGE_ERR_RECORD);
}

static void survives_noise(void) {
    uint8_t body[64], out[FEDGE_RECORD_HEADER_BYTES + FEDGE_RECORD_MAX_BODY];
    uint32_t state = 3;
    for (int i = 0; i < 300000; i++) {
        size_t length = draw(&state) % sizeof body;
        uint8_t *copy = malloc(length + 1);
        CHECK(copy != NULL);
        for (size_t k = 0; k < length; k++) {
            copy[k] = (uint8_t)(draw(&state) % (k < 8 ? 4u : 256u));
        }
        (void)rewrite((uint8_t)(draw(&state) % 22u), copy, length, out, sizeof out);
        free(copy);
    }
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    each_vector(argv[1], "record", check_record);
    refuses_what_no_sensor_says();
    survives_noise();
    return 0;
}
