/* The sensor firmware for a board that is this computer: replays a recording over stdin and stdout, or over a tty.
 * csrc/ and boards/common/ are what a microcontroller runs; this file is its main loop. */
#define _DEFAULT_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "recording.h"
#include "sampler.h"

#define PAYLOAD 240u
#define RECEIVE_WINDOW 4u

struct options {
    const char *recording, *tty;
    double speed, rate_hz;
    uint32_t baud, batch_ms;
    int loop;
};

static const char usage[] =
    "usage: fedge-sensor-host [options] RECORDING\n"
    "Replays a recording as a sensor board would, over stdin and stdout.\n"
    "  --tty PATH      talk over this tty instead\n"
    "  --baud N        line rate in bits per second (115200)\n"
    "  --speed X       times real time (1); 0: as fast as the line takes it, dropping nothing\n"
    "  --rate HZ       samples per second, instead of the recording's\n"
    "  --batch-ms N    send a batch of samples every so often (100)\n"
    "  --loop          begin again at the end\n";

static uint64_t monotonic_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static uint32_t random_epoch(void) {
    uint32_t epoch = 0;
    FILE *source = fopen("/dev/urandom", "rb");
    if (source != NULL) {
        if (fread(&epoch, sizeof epoch, 1, source) != 1) {
            epoch = 0;
        }
        fclose(source);
    }
    return epoch != 0u ? epoch : (uint32_t)(monotonic_us() ^ ((uint64_t)getpid() << 20)) | 1u;
}

static int parse(struct options *o, int argc, char **argv) {
    memset(o, 0, sizeof *o);
    o->speed = 1.0;
    o->baud = 115200;
    o->batch_ms = 100;
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(name, "--loop") == 0) {
            o->loop = 1;
            continue;
        }
        if (name[0] != '-') {
            o->recording = name;
            continue;
        }
        if (value == NULL) {
            return -1;
        }
        i++;
        if (strcmp(name, "--tty") == 0) {
            o->tty = value;
        } else if (strcmp(name, "--baud") == 0) {
            o->baud = (uint32_t)strtoul(value, NULL, 10);
        } else if (strcmp(name, "--speed") == 0) {
            o->speed = strtod(value, NULL);
        } else if (strcmp(name, "--rate") == 0) {
            o->rate_hz = strtod(value, NULL);
        } else if (strcmp(name, "--batch-ms") == 0) {
            o->batch_ms = (uint32_t)strtoul(value, NULL, 10);
        } else {
            return -1;
        }
    }
    return o->recording != NULL && o->speed >= 0.0 && o->baud >= 300u && o->baud <= 10000000u ? 0 : -1;
}

static speed_t speed_code(uint32_t baud) {
    switch (baud) {
    case 9600: return B9600;
    case 19200: return B19200;
    case 38400: return B38400;
    case 57600: return B57600;
    case 230400: return B230400;
    case 460800: return B460800;
    case 921600: return B921600;
    case 1000000: return B1000000;
    default: return B115200;
    }
}

static int open_tty(const char *path, uint32_t baud) {
    struct termios settings;
    int fd = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 || tcgetattr(fd, &settings) != 0) {
        fprintf(stderr, "fedge-sensor-host: %s: %s\n", path, strerror(errno));
        return -1;
    }
    cfmakeraw(&settings);
    settings.c_cflag |= CLOCAL | CREAD;
    cfsetspeed(&settings, speed_code(baud));
    tcsetattr(fd, TCSANOW, &settings);
    return fd;
}

struct board {
    struct fedge_link link;
    uint8_t link_memory[FEDGE_LINK_MEMORY_BYTES(PAYLOAD, FEDGE_WINDOW, RECEIVE_WINDOW)];
    struct sampler sampler;
    struct recording recording;
    struct options options;
    size_t position;
    uint64_t born_us;
    uint16_t batch;
    int in, out;
    uint8_t unwritten[FEDGE_FRAME_ENCODED_BYTES(FEDGE_MAX_PAYLOAD)];
    size_t unwritten_length;
};

/* The board's clock runs `speed` times as fast as ours, so that times and rate are those of the recording. */
static uint64_t board_us(const struct board *b) {
    double speed = b->options.speed > 0.0 ? b->options.speed : 1.0;
    return (uint64_t)((double)(monotonic_us() - b->born_us) * speed);
}

static void sample_all_due(struct board *b) {
    uint64_t now = board_us(b);
    while (b->sampler.running) {
        if (b->options.speed > 0.0 ? sampler_due_us(&b->sampler) > now
                                   : b->sampler.queued == b->sampler.queue_capacity) {
            return;
        }
        if (b->sampler.next_index == 0u) {
            b->position = 0;
        }
        if (b->position == b->recording.sample_count) {
            if (!b->options.loop) {
                sampler_finish(&b->sampler);
                return;
            }
            b->position = 0;
        }
        sampler_add(&b->sampler, b->recording.values + b->position * b->recording.channel_count);
        b->position++;
    }
}

static void take_events(struct board *b) {
    struct fedge_event event;
    while (fedge_link_next_event(&b->link, &event) != FEDGE_EVENT_NONE) {
        if (event.type == FEDGE_EVENT_UP || event.type == FEDGE_EVENT_PEER_RESET) {
            sampler_reset(&b->sampler);
        } else if (event.type == FEDGE_EVENT_DATA && event.stream == FEDGE_SENSOR_STREAM) {
            sampler_receive(&b->sampler, event.data, event.data_bytes, board_us(b));
        }
        fedge_link_grant(&b->link, RECEIVE_WINDOW); /* commands are obeyed at once: there is always room */
    }
}

/* 0 when the line is gone for good. */
static int read_line(struct board *b) {
    uint8_t data[512];
    ssize_t got = read(b->in, data, sizeof data);
    if (got <= 0) {
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
            return 1;
        }
        if (b->options.tty == NULL) {
            return 0;
        }
        usleep(50000); /* nobody has the other end of the pty open */
        return 1;
    }
    for (size_t taken = 0; taken < (size_t)got;) {
        taken += fedge_link_receive(&b->link, data + taken, (size_t)got - taken, (uint32_t)monotonic_us());
        take_events(b);
    }
    return 1;
}

static int write_line(struct board *b) {
    for (;;) {
        ssize_t sent;
        if (b->unwritten_length == 0u) {
            b->unwritten_length =
                fedge_link_transmit(&b->link, b->unwritten, sizeof b->unwritten, (uint32_t)monotonic_us());
            if (b->unwritten_length == 0u) {
                return 1;
            }
        }
        sent = write(b->out, b->unwritten, b->unwritten_length);
        if (sent < 0) {
            return errno == EAGAIN || errno == EINTR || b->options.tty != NULL;
        }
        b->unwritten_length -= (size_t)sent;
        memmove(b->unwritten, b->unwritten + sent, b->unwritten_length);
    }
}

static int wait_ms(const struct board *b) {
    uint32_t link_us = fedge_link_wakeup_us(&b->link);
    uint64_t wait_us = link_us == FEDGE_NEVER ? 1000000u : link_us;
    if (b->sampler.running && b->options.speed > 0.0) {
        /* One wake-up a tenth of a batch, not one a sample. */
        uint64_t samples_us = (uint64_t)b->options.batch_ms * 100u;
        uint64_t now = board_us(b), due = sampler_due_us(&b->sampler);
        uint64_t until_us = due > now ? (uint64_t)((double)(due - now) / b->options.speed) : 0u;
        samples_us = until_us > samples_us ? until_us : samples_us;
        wait_us = samples_us < wait_us ? samples_us : wait_us;
    }
    return (int)(wait_us / 1000u) + (wait_us % 1000u != 0u);
}

static void serve(struct board *b) {
    for (;;) {
        struct pollfd wanted[2] = {{b->in, POLLIN, 0}, {b->out, POLLOUT, 0}};
        sample_all_due(b);
        sampler_pump(&b->sampler, &b->link, b->batch);
        if (!write_line(b)) {
            return;
        }
        if (poll(wanted, b->unwritten_length != 0u ? 2u : 1u, wait_ms(b)) < 0 && errno != EINTR) {
            return;
        }
        if ((wanted[0].revents & (POLLIN | POLLHUP | POLLERR)) && !read_line(b)) {
            return;
        }
    }
}

int main(int argc, char **argv) {
    static struct board b; /* a microcontroller would have it static too; it is too big for a small stack */
    static struct fedge_channel channels[FEDGE_MAX_CHANNELS];
    struct fedge_link_config config;
    struct fedge_describe describe;
    static const char identity[] = "fedge-sensor-host";

    if (parse(&b.options, argc, argv) != 0) {
        fputs(usage, stderr);
        return 2;
    }
    if (recording_load(&b.recording, b.options.recording, b.options.rate_hz) != 0) {
        return 1;
    }
    for (uint8_t i = 0; i < b.recording.channel_count; i++) {
        channels[i].name.bytes = b.recording.names[i];
        channels[i].name.length = (uint8_t)strlen(b.recording.names[i]);
        channels[i].unit.bytes = b.recording.units[i];
        channels[i].unit.length = (uint8_t)strlen(b.recording.units[i]);
        memcpy(&channels[i].scale_bits, &b.recording.scales[i], sizeof channels[i].scale_bits);
        channels[i].offset_bits = 0u;
    }
    describe.sensor.bytes = b.recording.sensor;
    describe.sensor.length = (uint8_t)strlen(b.recording.sensor);
    describe.rate_mhz = b.recording.rate_mhz;
    describe.sample_type = b.recording.sample_type;
    describe.channel_count = b.recording.channel_count;
    sampler_init(&b.sampler, &describe, channels);
    b.batch = (uint16_t)(1u + (uint64_t)b.options.batch_ms * b.recording.rate_mhz / 1000000u % 0xFFFFu);

    b.in = STDIN_FILENO;
    b.out = STDOUT_FILENO;
    if (b.options.tty != NULL) {
        b.in = b.out = open_tty(b.options.tty, b.options.baud);
        if (b.in < 0) {
            return 1;
        }
    }
    memset(&config, 0, sizeof config);
    config.identity = (const uint8_t *)identity;
    config.identity_bytes = sizeof identity - 1u;
    config.epoch = random_epoch();
    config.line_rate_bps = b.options.baud;
    config.max_payload = PAYLOAD;
    config.send_window = FEDGE_WINDOW;
    config.receive_window = RECEIVE_WINDOW;
    config.paced = 1;
    b.born_us = monotonic_us();
    if (fedge_link_init(&b.link, &config, b.link_memory, sizeof b.link_memory, (uint32_t)monotonic_us()) != FEDGE_OK) {
        return 2;
    }
    fedge_link_grant(&b.link, RECEIVE_WINDOW);
    serve(&b);
    recording_free(&b.recording);
    return 0;
}
