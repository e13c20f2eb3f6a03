/* Frames on a byte line: COBS with a 0x00 delimiter around header, body and CRC-32. SPEC.md has every byte.
 *
 * One frame before stuffing, little-endian:
 *
 *   0      type in the low nibble, flags in the high nibble
 *   1..2   session tag (fedge_link.h); 0 in a HELLO
 *   3      stream
 *   4..5   sequence (DATA) or token (PING, PONG)
 *   [4]    acknowledgement block, present when FEDGE_FLAG_ACK is set: cumulative u16, SACK bitmap u8, credit u8
 *   ...    payload
 *   [4]    CRC-32 (IEEE 802.3, reflected) of all the above
 *
 * With the default payload of 240 bytes the longest frame is 254 bytes, the most that COBS stuffs with a single byte.
 */
#ifndef FEDGE_FRAME_H
#define FEDGE_FRAME_H

#include <stddef.h>
#include <stdint.h>

#define FEDGE_HEADER_BYTES 6u
#define FEDGE_ACK_BYTES 4u
#define FEDGE_CRC_BYTES 4u
#define FEDGE_MIN_PAYLOAD 64u
#define FEDGE_MAX_PAYLOAD 256u

/* Bytes of a frame before stuffing, at most, for a payload of P bytes; what a decoder's buffer must hold. */
#define FEDGE_FRAME_DECODED_BYTES(P) (FEDGE_HEADER_BYTES + FEDGE_ACK_BYTES + (P) + FEDGE_CRC_BYTES)
/* Bytes on the line, at most: one COBS code per started 254 bytes, and a delimiter on each side. */
#define FEDGE_FRAME_ENCODED_BYTES(P) (FEDGE_FRAME_DECODED_BYTES(P) + (FEDGE_FRAME_DECODED_BYTES(P) + 253u) / 254u + 2u)

enum fedge_status {
    FEDGE_OK = 0,             /* done; from the decoder: the byte is taken and no frame ended */
    FEDGE_FRAME_READY = 1,    /* a whole frame with a good CRC is in the decoder */
    FEDGE_ERR_COBS = -1,      /* a frame ended in the middle of a COBS block */
    FEDGE_ERR_CRC = -2,       /* the CRC does not match */
    FEDGE_ERR_TOO_SHORT = -3, /* shorter than its own header says, or than the least frame */
    FEDGE_ERR_TOO_LONG = -4,  /* longer than the decoder's buffer, or than the bound */
    FEDGE_ERR_SPACE = -5,     /* the caller's output buffer is too small; nothing was written */
    FEDGE_ERR_ARGUMENT = -6,  /* an argument is outside its stated range */
    FEDGE_ERR_RECORD = -7     /* a sensor record breaks a rule of SPEC.md */
};

enum fedge_frame_type {
    FEDGE_HELLO = 1,
    FEDGE_DATA = 2,
    FEDGE_ACK = 3,
    FEDGE_PING = 4,
    FEDGE_PONG = 5
};

#define FEDGE_FLAG_ACK 0x80u /* the acknowledgement block is present */

struct fedge_frame {
    const uint8_t *payload;
    uint16_t payload_bytes;
    uint16_t session;
    uint16_t sequence;
    uint16_t ack;   /* the next sequence number that the sender of this frame expects */
    uint8_t type;   /* 1..15 */
    uint8_t flags;  /* high nibble only; the ack fields count only with FEDGE_FLAG_ACK */
    uint8_t stream;
    uint8_t sack;   /* bit i: sequence ack + 1 + i has arrived */
    uint8_t credit; /* sequence numbers from ack on that the sender of this frame has room for */
};

struct fedge_decoder {
    uint8_t *buffer;   /* caller's, capacity bytes */
    uint16_t capacity;
    uint16_t length;   /* bytes unstuffed so far */
    uint8_t remaining; /* bytes left in the current COBS block */
    uint8_t zero_due;  /* the finished block stands for a zero, unless the frame ends here */
    uint8_t overflow;  /* the frame outgrew the buffer: skip to the delimiter */
};

/* CRC-32 (IEEE 802.3) of `length` bytes, continuing from `crc`; begin with 0. */
uint32_t fedge_crc32(uint32_t crc, const uint8_t *data, size_t length);

/* Writes one stuffed frame and its closing delimiter to `out`; its size goes to *written.
 * FEDGE_ERR_SPACE unless capacity >= FEDGE_FRAME_ENCODED_BYTES(frame->payload_bytes) - 1; FEDGE_ERR_ARGUMENT for a type
 * outside 1..15, flags in the low nibble or a payload longer than FEDGE_MAX_PAYLOAD. */
int fedge_frame_encode(const struct fedge_frame *frame, uint8_t *out, size_t capacity, size_t *written);

/* Prepares a decoder over the caller's buffer. Frames that unstuff to more than `capacity` bytes are refused, not stored. */
void fedge_decoder_init(struct fedge_decoder *decoder, uint8_t *buffer, uint16_t capacity);

/* Takes one byte from the line. FEDGE_OK: go on. FEDGE_FRAME_READY: fill a frame with fedge_decoder_frame before the next
 * byte. An error names why the bytes since the last delimiter were refused; the decoder is then in step again. Bounded
 * work: a CRC over the buffer at a delimiter, constant otherwise. Empty frames (two delimiters together) are silent. */
int fedge_decoder_push(struct fedge_decoder *decoder, uint8_t byte);

/* Reads the frame that FEDGE_FRAME_READY announced. FEDGE_ERR_TOO_SHORT if the flags promise an acknowledgement block
 * that is not there. The payload points into the decoder's buffer and lives until the next push. */
int fedge_decoder_frame(const struct fedge_decoder *decoder, struct fedge_frame *frame);

#endif
