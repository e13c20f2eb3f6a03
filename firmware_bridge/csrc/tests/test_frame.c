#include "check.h"
#include "fedge_frame.h"

#define LINE_BYTES FEDGE_FRAME_ENCODED_BYTES(FEDGE_MAX_PAYLOAD)

static struct fedge_decoder decoder;
static uint8_t buffer[FEDGE_FRAME_DECODED_BYTES(FEDGE_MAX_PAYLOAD)];

static int push_all(const uint8_t *line, size_t length) {
    int status = FEDGE_OK;
    for (size_t i = 0; i < length; i++) {
        status = fedge_decoder_push(&decoder, line[i]);
    }
    return status;
}

static void check_frame(char **fields) {
    uint8_t payload[FEDGE_MAX_PAYLOAD], line[LINE_BYTES], out[LINE_BYTES];
    size_t line_bytes = unhex(fields[7], line, sizeof line), written = 0;
    unsigned ack, sack, credit;
    struct fedge_frame frame, got;

    memset(&frame, 0, sizeof frame);
    frame.type = (uint8_t)atoi(fields[1]);
    frame.session = (uint16_t)strtoul(fields[2], NULL, 0);
    frame.stream = (uint8_t)atoi(fields[3]);
    frame.sequence = (uint16_t)strtoul(fields[4], NULL, 0);
    if (sscanf(fields[5], "%x:%x:%u", &ack, &sack, &credit) == 3) {
        frame.flags = FEDGE_FLAG_ACK;
        frame.ack = (uint16_t)ack;
        frame.sack = (uint8_t)sack;
        frame.credit = (uint8_t)credit;
    }
    frame.payload = payload;
    frame.payload_bytes = (uint16_t)unhex(fields[6], payload, sizeof payload);

    CHECK(fedge_frame_encode(&frame, out, sizeof out, &written) == FEDGE_OK);
    CHECK(written == line_bytes && memcmp(out, line, written) == 0);
    CHECK(push_all(line, line_bytes) == FEDGE_FRAME_READY);
    CHECK(fedge_decoder_frame(&decoder, &got) == FEDGE_OK);
    CHECK(got.type == frame.type && got.flags == frame.flags && got.session == frame.session);
    CHECK(got.stream == frame.stream && got.sequence == frame.sequence);
    CHECK(got.ack == frame.ack && got.sack == frame.sack && got.credit == frame.credit);
    CHECK(got.payload_bytes == frame.payload_bytes && memcmp(got.payload, payload, got.payload_bytes) == 0);

    /* Every bit but the delimiter's: 0x01 there is another way to end a full block, and the frame before it is whole. */
    for (size_t bit = 0; bit < 8 * (line_bytes - 1u); bit++) {
        line[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        for (size_t i = 0; i <= line_bytes; i++) {
            CHECK(fedge_decoder_push(&decoder, i < line_bytes ? line[i] : 0u) != FEDGE_FRAME_READY);
        }
        line[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    CHECK(push_all(line, line_bytes) == FEDGE_FRAME_READY);
}

static void refuses_what_does_not_fit(void) {
    uint8_t payload[FEDGE_MAX_PAYLOAD + 1] = {0}, out[LINE_BYTES], small[FEDGE_FRAME_DECODED_BYTES(64)];
    struct fedge_frame frame;
    size_t written = 99;

    memset(&frame, 0, sizeof frame);
    frame.type = FEDGE_DATA;
    frame.payload = payload;
    frame.payload_bytes = FEDGE_MAX_PAYLOAD + 1;
    CHECK(fedge_frame_encode(&frame, out, sizeof out, &written) == FEDGE_ERR_ARGUMENT);
    frame.payload_bytes = 100;
    CHECK(fedge_frame_encode(&frame, out, 60, &written) == FEDGE_ERR_SPACE && written == 99);
    CHECK(fedge_frame_encode(&frame, out, sizeof out, &written) == FEDGE_OK);
    fedge_decoder_init(&decoder, small, sizeof small);
    CHECK(push_all(out, written) == FEDGE_ERR_TOO_LONG);
    frame.payload_bytes = 64;
    CHECK(fedge_frame_encode(&frame, out, sizeof out, &written) == FEDGE_OK);
    CHECK(push_all(out, written) == FEDGE_FRAME_READY);
}

static void survives_noise(void) {
    uint32_t state = 1;
    fedge_decoder_init(&decoder, buffer, sizeof buffer);
    for (int i = 0; i < 1000000; i++) {
        uint8_t byte = (uint8_t)draw(&state);
        CHECK(fedge_decoder_push(&decoder, byte % 50u == 0u ? 0u : byte) != FEDGE_FRAME_READY);
    }
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    CHECK(fedge_crc32(0u, (const uint8_t *)"123456789", 9) == 0xCBF43926u);
    fedge_decoder_init(&decoder, buffer, sizeof buffer);
    each_vector(argv[1], "frame", check_frame);
    refuses_what_does_not_fit();
    survives_noise();
    return 0;
}
