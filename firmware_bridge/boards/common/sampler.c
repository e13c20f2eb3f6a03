#include "sampler.h"

#include <string.h>

#include "fedge_bytes.h"

void sampler_init(struct sampler *sampler, const struct fedge_describe *describe, const struct fedge_channel *channels) {
    memset(sampler, 0, sizeof *sampler);
    sampler->describe = *describe;
    sampler->channels = channels;
    sampler->queue_capacity = (uint16_t)(SAMPLER_QUEUE_VALUES / describe->channel_count);
    sampler_reset(sampler);
}

void sampler_reset(struct sampler *sampler) {
    fedge_record_reader_init(&sampler->reader, sampler->command_body, sizeof sampler->command_body);
    sampler->out_length = sampler->out_sent = sampler->answers_length = 0;
    sampler->owes_describe = sampler->owes_end = sampler->running = 0;
    sampler->queued = 0;
}

static void answer(struct sampler *sampler, const uint8_t *record, int size) {
    if (size > 0 && (size_t)size <= sizeof sampler->answers - sampler->answers_length) {
        memcpy(sampler->answers + sampler->answers_length, record, (size_t)size);
        sampler->answers_length = (uint16_t)(sampler->answers_length + size);
    }
}

static uint8_t start(struct sampler *sampler, uint64_t board_us) {
    sampler->running = 1;
    sampler->owes_end = 0;
    sampler->queued = 0;
    sampler->first_index = sampler->next_index = sampler->dropped = 0;
    sampler->start_us = board_us;
    return FEDGE_DONE;
}

static uint8_t set_rate(struct sampler *sampler, uint32_t rate_mhz) {
    if (sampler->running) {
        return FEDGE_NOT_NOW;
    }
    if (rate_mhz < 1u || rate_mhz > 1000000000u) {
        return FEDGE_OUT_OF_RANGE;
    }
    sampler->describe.rate_mhz = rate_mhz;
    return FEDGE_DONE;
}

static void obey(struct sampler *sampler, const struct fedge_command *command, uint64_t board_us) {
    uint8_t record[16];
    struct fedge_command_result result = {command->id, command->type, FEDGE_DONE};

    switch (command->type) {
    case FEDGE_RECORD_ASK:
        sampler->owes_describe = 1;
        return;
    case FEDGE_RECORD_ASK_TIME: {
        struct fedge_board_time time = {board_us, command->id};
        answer(sampler, record, fedge_write_time(&time, record, sizeof record));
        return;
    }
    case FEDGE_RECORD_START:
        result.result = start(sampler, board_us);
        break;
    case FEDGE_RECORD_STOP:
        sampler->running = 0;
        sampler->queued = 0;
        break;
    case FEDGE_RECORD_SET_RATE:
        result.result = set_rate(sampler, command->rate_mhz);
        break;
    default:
        result.result = FEDGE_UNKNOWN;
        break;
    }
    answer(sampler, record, fedge_write_result(&result, record, sizeof record));
}

void sampler_receive(struct sampler *sampler, const uint8_t *data, size_t length, uint64_t board_us) {
    for (size_t i = 0; i < length; i++) {
        struct fedge_command command;
        if (fedge_record_push(&sampler->reader, data[i]) == FEDGE_FRAME_READY &&
            fedge_read_command(sampler->reader.head[0], sampler->reader.body, sampler->reader.length, &command) == FEDGE_OK) {
            obey(sampler, &command, board_us);
        }
    }
}

static uint64_t sample_time_us(const struct sampler *sampler, uint32_t index) {
    return sampler->start_us + (uint64_t)index * 1000000000u / sampler->describe.rate_mhz;
}

uint64_t sampler_due_us(const struct sampler *sampler) { return sample_time_us(sampler, sampler->next_index); }

void sampler_add(struct sampler *sampler, const int32_t *values) {
    uint8_t channels = sampler->describe.channel_count;
    uint32_t index = sampler->next_index++;

    /* A batch is a run without gaps. So when the queue is full the newest are dropped, and sampling goes on only once the
     * whole run has left: gaps then are few and long, and every batch costs one header. */
    if (sampler->queued == 0u) {
        sampler->first_index = index;
    } else if (sampler->queued == sampler->queue_capacity || sampler->first_index + sampler->queued != index) {
        sampler->dropped++;
        return;
    }
    memcpy(sampler->queue + (size_t)sampler->queued * channels, values, channels * sizeof *values);
    sampler->queued++;
}

void sampler_finish(struct sampler *sampler) {
    sampler->running = 0;
    sampler->owes_end = 1;
}

static void write_batch(struct sampler *sampler, uint16_t count) {
    uint8_t values[FEDGE_RECORD_MAX_BODY];
    uint8_t channels = sampler->describe.channel_count;
    size_t width = fedge_sample_bytes(sampler->describe.sample_type);
    size_t total = (size_t)count * channels;
    struct fedge_samples samples;
    int size;

    for (size_t i = 0; i < total; i++) {
        if (width == 2u) {
            fedge_store16(values + 2u * i, (uint16_t)sampler->queue[i]);
        } else {
            fedge_store32(values + 4u * i, (uint32_t)sampler->queue[i]);
        }
    }
    samples.first_us = sample_time_us(sampler, sampler->first_index);
    samples.sequence = sampler->first_index;
    samples.dropped = sampler->dropped;
    samples.count = count;
    samples.channel_count = channels;
    samples.sample_type = sampler->describe.sample_type;
    samples.values = values;
    size = fedge_write_samples(&samples, sampler->out, sizeof sampler->out);
    sampler->out_length = size > 0 ? (uint16_t)size : 0u;
    sampler->out_sent = 0;
    sampler->queued = (uint16_t)(sampler->queued - count);
    sampler->first_index += count;
    memmove(sampler->queue, sampler->queue + total, (size_t)sampler->queued * channels * sizeof *sampler->queue);
}

/* Puts the next record into `out`; 0 if there is none. */
static int next_record(struct sampler *sampler, uint16_t batch) {
    size_t width = fedge_sample_bytes(sampler->describe.sample_type) * sampler->describe.channel_count;
    uint16_t most = (uint16_t)((FEDGE_RECORD_MAX_BODY - FEDGE_SAMPLES_HEAD_BYTES) / width);
    int size = 0;

    sampler->out_length = sampler->out_sent = 0;
    if (sampler->answers_length != 0u) {
        memcpy(sampler->out, sampler->answers, sampler->answers_length);
        sampler->out_length = sampler->answers_length;
        sampler->answers_length = 0;
    } else if (sampler->owes_describe) {
        sampler->owes_describe = 0;
        size = fedge_write_describe(&sampler->describe, sampler->channels, sampler->out, sizeof sampler->out);
        sampler->out_length = size > 0 ? (uint16_t)size : 0u;
    } else if (sampler->queued != 0u && (sampler->queued >= batch || sampler->queued >= most || !sampler->running ||
                                         sampler->first_index + sampler->queued != sampler->next_index)) {
        write_batch(sampler, sampler->queued < most ? sampler->queued : most);
    } else if (sampler->owes_end && sampler->queued == 0u) {
        sampler->owes_end = 0;
        size = fedge_write_end(sampler->dropped, sampler->out, sizeof sampler->out);
        sampler->out_length = size > 0 ? (uint16_t)size : 0u;
    }
    return sampler->out_length != 0u;
}

void sampler_pump(struct sampler *sampler, struct fedge_link *link, uint16_t batch) {
    while (sampler->out_sent < sampler->out_length || next_record(sampler, batch)) {
        size_t taken = fedge_link_send(link, FEDGE_SENSOR_STREAM, sampler->out + sampler->out_sent,
                                       (size_t)(sampler->out_length - sampler->out_sent));
        if (taken == 0u) {
            return;
        }
        sampler->out_sent = (uint16_t)(sampler->out_sent + taken);
    }
}
