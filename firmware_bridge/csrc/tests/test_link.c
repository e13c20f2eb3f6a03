/* Two links over a faulty line in virtual time, from a seed. The Python tests explore further; these run on boards too. */
#include "check.h"
#include "fedge_link.h"

#define PAYLOAD 128u
#define TOTAL 20000u

struct side {
    struct fedge_link link;
    uint8_t memory[FEDGE_LINK_MEMORY_BYTES(PAYLOAD, 8u, 8u)];
    uint32_t sent, received, ups, resets;
};

static struct side sides[2];
static uint32_t noise = 7;

/* The byte at place n of the stream that each side sends. */
static uint8_t content(uint32_t n) { return (uint8_t)(n * 2654435761u >> 24); }

static void check_tag(char **fields) {
    uint32_t from = (uint32_t)strtoul(fields[0], NULL, 16), to = (uint32_t)strtoul(fields[1], NULL, 16);
    CHECK(fedge_session_tag(from, to) == strtoul(fields[2], NULL, 16));
}

static void begin(struct side *side, uint32_t epoch, uint8_t receive_window, uint32_t now_us) {
    struct fedge_link_config config;
    memset(&config, 0, sizeof config);
    config.epoch = epoch;
    config.line_rate_bps = 115200;
    config.max_payload = PAYLOAD;
    config.send_window = 8;
    config.receive_window = receive_window;
    config.identity = (const uint8_t *)"test";
    config.identity_bytes = 4;
    config.paced = 1;
    memset(side, 0, sizeof *side);
    CHECK(fedge_link_init(&side->link, &config, side->memory, sizeof side->memory, now_us) == FEDGE_OK);
    fedge_link_grant(&side->link, receive_window);
}

static void take_events(struct side *side) {
    struct fedge_event event;
    while (fedge_link_next_event(&side->link, &event)) {
        switch (event.type) {
        case FEDGE_EVENT_UP:
            CHECK(event.data_bytes == 4 && memcmp(event.data, "test", 4) == 0);
            side->ups++;
            break;
        case FEDGE_EVENT_PEER_RESET:
            side->resets++;
            side->sent = side->received = 0;
            break;
        case FEDGE_EVENT_DATA:
            CHECK(event.stream == 3);
            for (uint16_t i = 0; i < event.data_bytes; i++) {
                CHECK(event.data[i] == content(side->received++));
            }
            break;
        default:
            CHECK(0);
        }
        fedge_link_grant(&side->link, side->link.config.receive_window);
    }
}

/* Runs both sides for `duration_us`. Of 4096 bytes, `hits` are corrupted and `lost` frames in 256 vanish. */
static void run(uint32_t *now_us, uint32_t duration_us, uint32_t hits, uint32_t lost) {
    uint8_t line[FEDGE_FRAME_ENCODED_BYTES(PAYLOAD)], data[64];
    for (uint32_t end = *now_us + duration_us; *now_us != end; *now_us += 500u) {
        for (int s = 0; s < 2; s++) {
            struct side *from = &sides[s], *to = &sides[1 - s];
            size_t size;
            for (size_t i = 0; i < sizeof data; i++) {
                data[i] = content(from->sent + (uint32_t)i);
            }
            if (from->sent < TOTAL) {
                from->sent += (uint32_t)fedge_link_send(&from->link, 3, data, sizeof data);
            }
            size = fedge_link_transmit(&from->link, line, sizeof line, *now_us);
            if (draw(&noise) % 256u < lost) {
                continue;
            }
            for (size_t i = 0; i < size; i++) {
                line[i] ^= (uint8_t)(draw(&noise) % 4096u < hits ? 1u + draw(&noise) % 255u : 0u);
            }
            for (size_t taken = 0; taken < size;) {
                taken += fedge_link_receive(&to->link, line + taken, size - taken, *now_us);
                take_events(to);
            }
        }
    }
}

static void delivers_everything(uint8_t window, uint32_t hits, uint32_t lost, uint32_t seconds, uint32_t start_us) {
    uint32_t now_us = start_us;
    begin(&sides[0], 11, window, now_us);
    begin(&sides[1], 22, window, now_us);
    run(&now_us, seconds * 1000000u, hits, lost);
    for (int s = 0; s < 2; s++) {
        CHECK(sides[s].ups == 1 && sides[s].resets == 0);
        CHECK(sides[s].received >= TOTAL && sides[s].received == sides[1 - s].sent);
        CHECK(fedge_link_unacked_bytes(&sides[s].link) == 0);
    }
}

static void resumes_after_minutes_of_silence(void) {
    uint32_t now_us = 0;
    begin(&sides[0], 11, 8, now_us);
    begin(&sides[1], 22, 8, now_us);
    run(&now_us, 500000u, 0, 0);
    CHECK(sides[1].received > 0 && sides[1].received < TOTAL);
    run(&now_us, 180000000u, 0, 256);
    run(&now_us, 4000000u, 0, 0);
    CHECK(sides[0].received >= TOTAL && sides[1].received >= TOTAL);
    CHECK(sides[0].ups == 1 && sides[1].ups == 1);
}

static void reports_a_restarted_peer(void) {
    uint32_t now_us = 0;
    begin(&sides[0], 11, 8, now_us);
    begin(&sides[1], 22, 8, now_us);
    run(&now_us, 500000u, 0, 0);
    begin(&sides[1], 33, 8, now_us);
    run(&now_us, 4000000u, 0, 0);
    CHECK(sides[0].resets == 1 && sides[0].ups == 2);
    CHECK(sides[1].resets == 0 && sides[1].ups == 1);
    CHECK(sides[0].received >= TOTAL && sides[1].received >= TOTAL);
}

static void refuses_bad_configurations(void) {
    struct fedge_link link;
    struct fedge_link_config config;
    static uint8_t memory[4096];
    memset(&config, 0, sizeof config);
    config.epoch = 1;
    config.line_rate_bps = 115200;
    config.max_payload = 64;
    config.send_window = 8;
    config.receive_window = 1;
    CHECK(fedge_link_init(&link, &config, memory, sizeof memory, 0) == FEDGE_OK);
    CHECK(fedge_link_init(&link, &config, memory, 100, 0) == FEDGE_ERR_SPACE);
    CHECK(fedge_link_send(&link, 0, memory, 1) == 0);
    config.send_window = 3;
    CHECK(fedge_link_init(&link, &config, memory, sizeof memory, 0) == FEDGE_ERR_ARGUMENT);
    config.send_window = 8;
    config.epoch = 0;
    CHECK(fedge_link_init(&link, &config, memory, sizeof memory, 0) == FEDGE_ERR_ARGUMENT);
    /* What a sensor board needs: send window 8, commands one at a time. */
    CHECK(sizeof(struct fedge_link) + FEDGE_LINK_MEMORY_BYTES(128u, 8u, 1u) <= 1536u || sizeof(void *) > 4u);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    each_vector(argv[1], "tag", check_tag);
    delivers_everything(8, 0, 0, 3, 0);
    delivers_everything(8, 4, 0, 8, 0xFFFFFFFFu - 1000000u); /* the clock wraps in the middle */
    delivers_everything(8, 0, 64, 20, 5);
    delivers_everything(1, 2, 10, 60, 5);
    delivers_everything(3, 2, 10, 30, 5);
    resumes_after_minutes_of_silence();
    reports_a_restarted_peer();
    refuses_bad_configurations();
    return 0;
}
