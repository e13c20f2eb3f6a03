#include "fedge_frame.h"

#include "fedge_bytes.h"

/* A table of 16 words costs 64 bytes of flash and half the speed of one of 256; a 115200 line leaves 86 us a byte. */
static const uint32_t crc_nibble[16] = {
    0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u, 0x4DB26158u, 0x5005713Cu,
    0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu, 0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu,
};

uint32_t fedge_crc32(uint32_t crc, const uint8_t *data, size_t length) {
    crc = ~crc;
    for (size_t i = 0; i < length; i++) {
        crc ^= data[i];
        crc = (crc >> 4) ^ crc_nibble[crc & 0xFu];
        crc = (crc >> 4) ^ crc_nibble[crc & 0xFu];
    }
    return ~crc;
}

/* A COBS encoder that writes as it goes: `code_at` is where the current block's length will be put. */
struct stuffer {
    uint8_t *out;
    size_t length;
    size_t code_at;
    int full_block; /* a block of 254 ended just now: its successor opens only if another byte comes */
};

static void stuff_byte(struct stuffer *s, uint8_t byte) {
    if (s->full_block) {
        s->code_at = s->length++;
        s->full_block = 0;
    }
    if (byte != 0u) {
        s->out[s->length++] = byte;
        if (s->length - s->code_at == 255u) {
            s->out[s->code_at] = 0xFFu;
            s->full_block = 1;
        }
    } else {
        s->out[s->code_at] = (uint8_t)(s->length - s->code_at);
        s->code_at = s->length++;
    }
}

static void stuff(struct stuffer *s, const uint8_t *data, size_t length) {
    for (size_t i = 0; i < length; i++) {
        stuff_byte(s, data[i]);
    }
}

int fedge_frame_encode(const struct fedge_frame *frame, uint8_t *out, size_t capacity, size_t *written) {
    uint8_t head[FEDGE_HEADER_BYTES + FEDGE_ACK_BYTES];
    uint8_t tail[FEDGE_CRC_BYTES];
    size_t head_bytes = FEDGE_HEADER_BYTES;
    struct stuffer s = {out, 1u, 0u, 0};

    if (frame->type == 0u || frame->type > 15u || (frame->flags & 0x0Fu) != 0u ||
        frame->payload_bytes > FEDGE_MAX_PAYLOAD) {
        return FEDGE_ERR_ARGUMENT;
    }
    if (capacity + 1u < FEDGE_FRAME_ENCODED_BYTES((size_t)frame->payload_bytes)) {
        return FEDGE_ERR_SPACE;
    }
    head[0] = (uint8_t)(frame->type | frame->flags);
    fedge_store16(head + 1, frame->session);
    head[3] = frame->stream;
    fedge_store16(head + 4, frame->sequence);
    if (frame->flags & FEDGE_FLAG_ACK) {
        fedge_store16(head + 6, frame->ack);
        head[8] = frame->sack;
        head[9] = frame->credit;
        head_bytes += FEDGE_ACK_BYTES;
    }
    fedge_store32(tail, fedge_crc32(fedge_crc32(0u, head, head_bytes), frame->payload, frame->payload_bytes));

    stuff(&s, head, head_bytes);
    stuff(&s, frame->payload, frame->payload_bytes);
    stuff(&s, tail, sizeof tail);
    if (!s.full_block) {
        out[s.code_at] = (uint8_t)(s.length - s.code_at);
    }
    out[s.length++] = 0u;
    *written = s.length;
    return FEDGE_OK;
}

static void begin_frame(struct fedge_decoder *decoder) {
    decoder->length = 0;
    decoder->remaining = 0;
    decoder->zero_due = 0;
    decoder->overflow = 0;
}

void fedge_decoder_init(struct fedge_decoder *decoder, uint8_t *buffer, uint16_t capacity) {
    decoder->buffer = buffer;
    decoder->capacity = capacity;
    begin_frame(decoder);
}

static void store(struct fedge_decoder *decoder, uint8_t byte) {
    if (decoder->length < decoder->capacity) {
        decoder->buffer[decoder->length++] = byte;
    } else {
        decoder->overflow = 1;
    }
}

/* The verdict on what lies between two delimiters. Leaves `length` at header + body, without the CRC. */
static int end_frame(struct fedge_decoder *decoder) {
    uint16_t length = decoder->length;
    int truncated = decoder->remaining != 0u;
    int overflow = decoder->overflow;
    int empty = length == 0u && !truncated && !decoder->zero_due;

    begin_frame(decoder);
    if (empty) {
        return FEDGE_OK;
    }
    if (overflow) {
        return FEDGE_ERR_TOO_LONG;
    }
    if (truncated) {
        return FEDGE_ERR_COBS;
    }
    if (length < FEDGE_HEADER_BYTES + FEDGE_CRC_BYTES) {
        return FEDGE_ERR_TOO_SHORT;
    }
    length = (uint16_t)(length - FEDGE_CRC_BYTES);
    if (fedge_load32(decoder->buffer + length) != fedge_crc32(0u, decoder->buffer, length)) {
        return FEDGE_ERR_CRC;
    }
    decoder->length = length;
    return FEDGE_FRAME_READY;
}

int fedge_decoder_push(struct fedge_decoder *decoder, uint8_t byte) {
    if (decoder->remaining == 0u && !decoder->zero_due && !decoder->overflow) {
        decoder->length = 0; /* the first byte after a frame that was handed out */
    }
    if (byte == 0u) {
        return end_frame(decoder);
    }
    if (decoder->overflow) {
        return FEDGE_OK;
    }
    if (decoder->remaining != 0u) {
        store(decoder, byte);
        decoder->remaining--;
        return FEDGE_OK;
    }
    if (decoder->zero_due == 1u) {
        store(decoder, 0u);
    }
    decoder->remaining = (uint8_t)(byte - 1u);
    decoder->zero_due = byte == 0xFFu ? 2u : 1u; /* 2: a full block, which stands for no zero */
    return FEDGE_OK;
}

int fedge_decoder_frame(const struct fedge_decoder *decoder, struct fedge_frame *frame) {
    const uint8_t *raw = decoder->buffer;
    uint16_t start = FEDGE_HEADER_BYTES;

    frame->type = raw[0] & 0x0Fu;
    frame->flags = raw[0] & 0xF0u;
    frame->session = fedge_load16(raw + 1);
    frame->stream = raw[3];
    frame->sequence = fedge_load16(raw + 4);
    frame->ack = 0;
    frame->sack = 0;
    frame->credit = 0;
    if (frame->flags & FEDGE_FLAG_ACK) {
        if (decoder->length < FEDGE_HEADER_BYTES + FEDGE_ACK_BYTES) {
            return FEDGE_ERR_TOO_SHORT;
        }
        frame->ack = fedge_load16(raw + 6);
        frame->sack = raw[8];
        frame->credit = raw[9];
        start = FEDGE_HEADER_BYTES + FEDGE_ACK_BYTES;
    }
    frame->payload = raw + start;
    frame->payload_bytes = (uint16_t)(decoder->length - start);
    return FEDGE_OK;
}
