/* The sensor half of a board's firmware: commands in, records out, samples in a small queue between. No I/O; portable. */
#ifndef FEDGE_SAMPLER_H
#define FEDGE_SAMPLER_H

#include "fedge_link.h"
#include "fedge_sensor.h"

#define SAMPLER_QUEUE_VALUES 2048u

struct sampler {
    struct fedge_describe describe;
    const struct fedge_channel *channels;
    struct fedge_record_reader reader;
    uint8_t command_body[16];
    uint8_t out[FEDGE_RECORD_HEADER_BYTES + FEDGE_RECORD_MAX_BODY]; /* a record on its way into the link */
    uint16_t out_length, out_sent;
    uint8_t answers[256]; /* small records that wait for `out` */
    uint16_t answers_length;
    uint8_t owes_describe, owes_end;
    int32_t queue[SAMPLER_QUEUE_VALUES]; /* (queued, channels), oldest first */
    uint32_t first_index;                /* of the oldest queued sample */
    uint32_t next_index;                 /* of the next sample to come */
    uint16_t queued;
    uint16_t queue_capacity;
    uint32_t dropped;
    uint64_t start_us;
    uint8_t running;
};

void sampler_init(struct sampler *sampler, const struct fedge_describe *describe, const struct fedge_channel *channels);

/* Forgets the host: stopped, nothing queued. For a new session. */
void sampler_reset(struct sampler *sampler);

/* Takes bytes of FEDGE_SENSOR_STREAM. Nonsense from the host is ignored: it cannot stop a board. */
void sampler_receive(struct sampler *sampler, const uint8_t *data, size_t length, uint64_t board_us);

/* Board time at which sample `next_index` is due; meaningful while running. */
uint64_t sampler_due_us(const struct sampler *sampler);

/* Adds the next sample (one value a channel), or counts it as dropped when the queue is full. */
void sampler_add(struct sampler *sampler, const int32_t *values);

/* No more samples: END follows what is queued, and the sampler stops. */
void sampler_finish(struct sampler *sampler);

/* Moves records into the link as far as it takes them. A batch leaves when `batch` samples wait, or when sampling ended. */
void sampler_pump(struct sampler *sampler, struct fedge_link *link, uint16_t batch);

#endif
