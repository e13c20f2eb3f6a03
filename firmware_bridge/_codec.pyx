# cython: language_level=3, boundscheck=True, embedsignature=True
"""The C library of csrc/ for Python: the very parser that the microcontroller compiles. It checks, calls and converts;
defaults, buffers and policy are in frame.py, link.py and sensor.py."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset


cdef extern from "fedge_frame.h":
    enum:
        FEDGE_OK
        FEDGE_FRAME_READY
        FEDGE_MAX_PAYLOAD
    struct fedge_frame:
        const uint8_t *payload
        uint16_t payload_bytes
        uint16_t session
        uint16_t sequence
        uint16_t ack
        uint8_t type
        uint8_t flags
        uint8_t stream
        uint8_t sack
        uint8_t credit
    struct fedge_decoder:
        pass
    size_t FEDGE_FRAME_DECODED_BYTES(size_t payload)
    size_t FEDGE_FRAME_ENCODED_BYTES(size_t payload)
    uint32_t fedge_crc32(uint32_t crc, const uint8_t *data, size_t length) nogil
    int fedge_frame_encode(const fedge_frame *frame, uint8_t *out, size_t capacity, size_t *written)
    void fedge_decoder_init(fedge_decoder *decoder, uint8_t *buffer, uint16_t capacity)
    int fedge_decoder_push(fedge_decoder *decoder, uint8_t byte)
    int fedge_decoder_frame(const fedge_decoder *decoder, fedge_frame *frame)


cdef extern from "fedge_link.h":
    struct fedge_link_config:
        const uint8_t *identity
        uint32_t epoch
        uint32_t line_rate_bps
        uint32_t keepalive_us
        uint16_t max_payload
        uint8_t send_window
        uint8_t receive_window
        uint8_t identity_bytes
        uint8_t paced
    struct fedge_event:
        const uint8_t *data
        uint32_t epoch
        uint16_t data_bytes
        uint8_t type
        uint8_t stream
    struct fedge_link_stats:
        uint32_t frames_sent
        uint32_t bytes_sent
        uint32_t frames_received
        uint32_t bytes_received
        uint32_t frames_resent
        uint32_t frames_bad
        uint32_t frames_foreign
        uint32_t frames_duplicate
    struct fedge_link:
        fedge_link_config config
        fedge_link_stats stats
        uint32_t now_us
        uint32_t peer_epoch
        uint32_t quiet_us
        uint32_t srtt_us
        uint32_t byte_errors_q24
        uint16_t payload_limit
        uint8_t up
    enum:
        FEDGE_WINDOW
    size_t FEDGE_LINK_MEMORY_BYTES(size_t payload, size_t send_window, size_t receive_window)
    int fedge_link_init(fedge_link *link, const fedge_link_config *config, uint8_t *memory, size_t memory_bytes,
                        uint32_t now_us)
    size_t fedge_link_receive(fedge_link *link, const uint8_t *data, size_t length, uint32_t now_us)
    int fedge_link_next_event(fedge_link *link, fedge_event *event)
    void fedge_link_grant(fedge_link *link, uint8_t frames)
    size_t fedge_link_send(fedge_link *link, uint8_t stream, const uint8_t *data, size_t length)
    size_t fedge_link_transmit(fedge_link *link, uint8_t *out, size_t capacity, uint32_t now_us)
    uint32_t fedge_link_wakeup_us(const fedge_link *link)
    size_t fedge_link_unacked_bytes(const fedge_link *link)
    uint16_t fedge_session_tag(uint32_t sender, uint32_t receiver)


cdef extern from "fedge_sensor.h":
    enum:
        FEDGE_RECORD_MAX_BODY
        FEDGE_RECORD_HEADER_BYTES
        FEDGE_MAX_CHANNELS
    struct fedge_text:
        const char *bytes
        uint8_t length
    struct fedge_channel:
        fedge_text name
        fedge_text unit
        uint32_t scale_bits
        uint32_t offset_bits
    struct fedge_describe:
        fedge_text sensor
        uint32_t rate_mhz
        uint8_t sample_type
        uint8_t channel_count
    struct fedge_samples:
        uint64_t first_us
        uint32_t sequence
        uint32_t dropped
        uint16_t count
        uint8_t channel_count
        uint8_t sample_type
        const uint8_t *values
    struct fedge_command:
        uint8_t type
        uint8_t id
        uint32_t rate_mhz
    struct fedge_board_time:
        uint64_t board_us
        uint8_t id
    struct fedge_command_result:
        uint8_t id
        uint8_t type
        uint8_t result
    struct fedge_record_reader:
        uint16_t length
        uint8_t head[3]
    void fedge_record_reader_init(fedge_record_reader *reader, uint8_t *body, uint16_t capacity)
    int fedge_record_push(fedge_record_reader *reader, uint8_t byte)
    int fedge_write_describe(const fedge_describe *describe, const fedge_channel *channels, uint8_t *out, size_t capacity)
    int fedge_write_samples(const fedge_samples *samples, uint8_t *out, size_t capacity)
    int fedge_write_command(const fedge_command *command, uint8_t *out, size_t capacity)
    int fedge_write_result(const fedge_command_result *result, uint8_t *out, size_t capacity)
    int fedge_write_time(const fedge_board_time *time, uint8_t *out, size_t capacity)
    int fedge_write_end(uint32_t dropped, uint8_t *out, size_t capacity)
    int fedge_read_describe(const uint8_t *body, size_t length, fedge_describe *describe, fedge_channel *channels)
    int fedge_read_samples(const uint8_t *body, size_t length, fedge_samples *samples)
    int fedge_read_command(uint8_t type, const uint8_t *body, size_t length, fedge_command *command)
    int fedge_read_result(const uint8_t *body, size_t length, fedge_command_result *result)
    int fedge_read_time(const uint8_t *body, size_t length, fedge_board_time *time)
    int fedge_read_end(const uint8_t *body, size_t length, uint32_t *dropped)


# ---- frames -----------------------------------------------------------------------------------------------------------

def crc32(const uint8_t[::1] data, uint32_t crc=0):
    """CRC-32 (IEEE 802.3) of `data`, continuing from `crc`."""
    return fedge_crc32(crc, &data[0], data.shape[0]) if data.shape[0] else crc


def session_tag(uint32_t sender, uint32_t receiver):
    """The 16-bit tag of frames from the side with nonce `sender` to the side with nonce `receiver`."""
    return fedge_session_tag(sender, receiver)


def encode_frame(uint8_t type, uint16_t session, uint8_t stream, uint16_t sequence, bytes payload not None, ack):
    """One stuffed frame with its closing delimiter. `ack` is None or (cumulative, sack bitmap, credit)."""
    cdef fedge_frame frame
    cdef uint8_t out[600]
    cdef size_t written = 0
    cdef int status
    if len(payload) > FEDGE_MAX_PAYLOAD:
        return -6
    memset(&frame, 0, sizeof(frame))
    frame.type, frame.session, frame.stream, frame.sequence = type, session, stream, sequence
    frame.payload, frame.payload_bytes = <const uint8_t *><const char *>payload, <uint16_t>len(payload)
    if ack is not None:
        frame.flags = 0x80
        frame.ack, frame.sack, frame.credit = ack
    status = fedge_frame_encode(&frame, out, sizeof(out), &written)
    if status != FEDGE_OK:
        return status
    return out[:written]


cdef class Decoder:
    """Takes bytes; gives a tuple for each good frame and a negative status for each refused one."""
    cdef fedge_decoder decoder
    cdef uint8_t buffer[270]

    def __cinit__(self, uint16_t max_payload):
        if max_payload > FEDGE_MAX_PAYLOAD:
            raise ValueError(f"max_payload is {max_payload}; the most is {FEDGE_MAX_PAYLOAD}")
        fedge_decoder_init(&self.decoder, self.buffer, <uint16_t>FEDGE_FRAME_DECODED_BYTES(max_payload))

    def push(self, const uint8_t[::1] data not None):
        cdef fedge_frame frame
        cdef int status
        cdef Py_ssize_t i
        found = []
        for i in range(data.shape[0]):
            status = fedge_decoder_push(&self.decoder, data[i])
            if status == FEDGE_FRAME_READY:
                status = fedge_decoder_frame(&self.decoder, &frame)
                if status == FEDGE_OK:
                    ack = (frame.ack, frame.sack, frame.credit) if frame.flags & 0x80 else None
                    found.append((frame.type, frame.session, frame.stream, frame.sequence,
                                  frame.payload[:frame.payload_bytes], ack))
            if status < 0:
                found.append(status)
        return found


# ---- link -------------------------------------------------------------------------------------------------------------

cdef class LinkCore:
    """A fedge_link with its memory. Times are seconds of a monotonic clock; going back counts as standing still."""
    cdef fedge_link link
    cdef uint8_t *memory
    cdef bytes identity
    cdef double now_s

    def __cinit__(self, *, uint32_t epoch, uint32_t line_rate_bps, uint16_t max_payload_bytes, bytes identity not None,
                  uint32_t keepalive_us, uint8_t send_window, uint8_t receive_window, bint paced, double now_s=0.0):
        cdef fedge_link_config config
        cdef size_t size
        if max_payload_bytes > FEDGE_MAX_PAYLOAD or len(identity) > 255 or not 1 <= receive_window <= FEDGE_WINDOW:
            raise ValueError("out of range")
        size = FEDGE_LINK_MEMORY_BYTES(max_payload_bytes, send_window, receive_window)
        self.identity = identity
        memset(&config, 0, sizeof(config))
        config.identity = <const uint8_t *><const char *>identity
        config.identity_bytes = <uint8_t>len(identity)
        config.epoch, config.line_rate_bps, config.keepalive_us = epoch, line_rate_bps, keepalive_us
        config.max_payload, config.send_window, config.receive_window = max_payload_bytes, send_window, receive_window
        config.paced = paced
        self.memory = <uint8_t *>malloc(size)
        if self.memory == NULL:
            raise MemoryError
        self.now_s = now_s
        if fedge_link_init(&self.link, &config, self.memory, size, self._us(now_s)) != FEDGE_OK:
            raise ValueError("out of range")

    def __dealloc__(self):
        free(self.memory)

    cdef uint32_t _us(self, double now_s):
        return <uint32_t>(<uint64_t>(now_s * 1e6) & 0xFFFFFFFF)

    cdef uint32_t _advance(self, double now_s):
        # The C clock wraps after 71 minutes; a longer pause (a suspended laptop) is walked in steps.
        while now_s - self.now_s > 1800.0:
            self.now_s += 1800.0
            fedge_link_receive(&self.link, NULL, 0, self._us(self.now_s))
        if now_s > self.now_s:
            self.now_s = now_s
        return self._us(self.now_s)

    def receive(self, const uint8_t[::1] data not None, double now_s):
        """Events as tuples (type, stream, epoch, data)."""
        cdef fedge_event event
        cdef size_t taken = 0, length = data.shape[0]
        cdef const uint8_t *start = &data[0] if length else NULL
        cdef uint32_t now_us = self._advance(now_s)
        events = []
        while taken < length:
            taken += fedge_link_receive(&self.link, start + taken, length - taken, now_us)
            while fedge_link_next_event(&self.link, &event):
                events.append((event.type, event.stream, event.epoch, event.data[:event.data_bytes]))
        return events

    def send(self, uint8_t stream, const uint8_t[::1] data not None):
        return fedge_link_send(&self.link, stream, &data[0], data.shape[0]) if data.shape[0] else 0

    def transmit(self, double now_s, Py_ssize_t limit):
        """Whole frames until nothing is due or the next might pass `limit` bytes; one frame at least if one is due."""
        cdef uint8_t out[600]
        cdef size_t size, total = 0
        cdef uint32_t now_us = self._advance(now_s)
        parts = []
        while True:
            size = fedge_link_transmit(&self.link, out, sizeof(out), now_us)
            if size == 0:
                break
            parts.append(out[:size])
            total += size
            if total + FEDGE_FRAME_ENCODED_BYTES(self.link.config.max_payload) > <size_t>limit:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def grant(self, uint8_t frames):
        fedge_link_grant(&self.link, frames)

    def wakeup_at(self):
        cdef uint32_t wait = fedge_link_wakeup_us(&self.link)
        # One microsecond more, so that rounding can never wake the caller just before the timer.
        if wait == 0xFFFFFFFF:
            return None
        return self.now_s + (wait + 1) * 1e-6 if wait else self.now_s

    @property
    def up(self):
        return bool(self.link.up)

    @property
    def epoch(self):
        return self.link.config.epoch

    @property
    def peer_epoch(self):
        return self.link.peer_epoch

    @property
    def payload_limit(self):
        return self.link.payload_limit

    @property
    def unacked_bytes(self):
        return fedge_link_unacked_bytes(&self.link)

    @property
    def quiet_s(self):
        return self.link.quiet_us * 1e-6

    @property
    def state_bytes(self):
        """sizeof the link's state plus its working memory."""
        return sizeof(fedge_link) + FEDGE_LINK_MEMORY_BYTES(
            self.link.config.max_payload, self.link.config.send_window, self.link.config.receive_window)

    def stats(self):
        cdef fedge_link_stats *s = &self.link.stats
        return (s.frames_sent, s.bytes_sent, s.frames_received, s.bytes_received, s.frames_resent, s.frames_bad,
                s.frames_foreign, s.frames_duplicate, self.link.srtt_us * 1e-6, self.link.byte_errors_q24 / 16777216.0)


# ---- sensor records ---------------------------------------------------------------------------------------------------

cdef uint32_t _float_bits(float value):
    cdef uint32_t bits
    memcpy(&bits, &value, 4)
    return bits


cdef float _bits_float(uint32_t bits):
    cdef float value
    memcpy(&value, &bits, 4)
    return value


cdef bytes _text(fedge_text text):
    return text.bytes[:text.length]


cdef _written(int status, uint8_t *out):
    if status < 0:
        return status
    return out[:status]


cdef class RecordReader:
    """Puts records together from a stream: tuples (type, body), and a negative status once it has lost its step."""
    cdef fedge_record_reader reader
    cdef uint8_t body[1024]

    def __cinit__(self):
        fedge_record_reader_init(&self.reader, self.body, sizeof(self.body))

    def push(self, const uint8_t[::1] data not None):
        cdef Py_ssize_t i
        cdef int status
        found = []
        for i in range(data.shape[0]):
            status = fedge_record_push(&self.reader, data[i])
            if status == FEDGE_FRAME_READY:
                found.append((self.reader.head[0], self.body[:self.reader.length]))
            elif status < 0:
                found.append(status)
                break
        return found


def write_describe(bytes sensor not None, uint32_t rate_mhz, uint8_t sample_type, list channels not None):
    """`channels`: tuples (name, unit, scale, offset) with names and units as UTF-8 bytes."""
    cdef fedge_describe describe
    cdef fedge_channel table[32]
    cdef uint8_t out[1027]
    if len(channels) > 32 or len(sensor) > 255:
        return -6
    describe.sensor.bytes, describe.sensor.length = sensor, <uint8_t>len(sensor)
    describe.rate_mhz, describe.sample_type, describe.channel_count = rate_mhz, sample_type, <uint8_t>len(channels)
    for i, channel in enumerate(channels):
        if len(channel[0]) > 255 or len(channel[1]) > 255:
            return -6
        table[i].name.bytes, table[i].name.length = <const char *>(<bytes>channel[0]), <uint8_t>len(channel[0])
        table[i].unit.bytes, table[i].unit.length = <const char *>(<bytes>channel[1]), <uint8_t>len(channel[1])
        table[i].scale_bits, table[i].offset_bits = _float_bits(channel[2]), _float_bits(channel[3])
    return _written(fedge_write_describe(&describe, table, out, sizeof(out)), out)


def read_describe(const uint8_t[::1] body not None):
    """(sensor, rate_mhz, sample_type, [(name, unit, scale, offset), ...]), or a negative status."""
    cdef fedge_describe describe
    cdef fedge_channel table[32]
    cdef int status = fedge_read_describe(&body[0] if body.shape[0] else NULL, body.shape[0], &describe, table)
    if status != FEDGE_OK:
        return status
    channels = [(_text(table[i].name), _text(table[i].unit), _bits_float(table[i].scale_bits),
                 _bits_float(table[i].offset_bits)) for i in range(describe.channel_count)]
    return _text(describe.sensor), describe.rate_mhz, describe.sample_type, channels


def write_samples(uint64_t first_us, uint32_t sequence, uint32_t dropped, uint8_t channel_count, uint8_t sample_type,
                  bytes values not None):
    """`values`: little-endian integers, interleaved by channel."""
    cdef fedge_samples samples
    cdef uint8_t out[1027]
    width = {1: 2, 2: 4}.get(sample_type, 0) * channel_count
    if width == 0 or len(values) % width or len(values) > FEDGE_RECORD_MAX_BODY:
        return -6
    samples.first_us, samples.sequence, samples.dropped = first_us, sequence, dropped
    samples.count, samples.channel_count, samples.sample_type = len(values) // width, channel_count, sample_type
    samples.values = <const uint8_t *><const char *>values
    return _written(fedge_write_samples(&samples, out, sizeof(out)), out)


def read_samples(const uint8_t[::1] body not None):
    """(first_us, sequence, dropped, count, channel_count, sample_type, values), or a negative status."""
    cdef fedge_samples s
    cdef int status = fedge_read_samples(&body[0] if body.shape[0] else NULL, body.shape[0], &s)
    if status != FEDGE_OK:
        return status
    values = s.values[:body.shape[0] - 22]
    return s.first_us, s.sequence, s.dropped, s.count, s.channel_count, s.sample_type, values


def write_command(uint8_t type, uint8_t id, uint32_t rate_mhz=0):
    cdef fedge_command command
    cdef uint8_t out[16]
    command.type, command.id, command.rate_mhz = type, id, rate_mhz
    return _written(fedge_write_command(&command, out, sizeof(out)), out)


def read_command(uint8_t type, const uint8_t[::1] body not None):
    """(type, id, rate_mhz), or a negative status."""
    cdef fedge_command c
    cdef int status = fedge_read_command(type, &body[0] if body.shape[0] else NULL, body.shape[0], &c)
    if status != FEDGE_OK:
        return status
    return (c.type, c.id, c.rate_mhz)


def write_result(uint8_t id, uint8_t type, uint8_t result):
    cdef fedge_command_result r
    cdef uint8_t out[16]
    r.id, r.type, r.result = id, type, result
    return _written(fedge_write_result(&r, out, sizeof(out)), out)


def read_result(const uint8_t[::1] body not None):
    """(id, command type, result), or a negative status."""
    cdef fedge_command_result r
    cdef int status = fedge_read_result(&body[0] if body.shape[0] else NULL, body.shape[0], &r)
    if status != FEDGE_OK:
        return status
    return (r.id, r.type, r.result)


def write_time(uint8_t id, uint64_t board_us):
    cdef fedge_board_time t
    cdef uint8_t out[16]
    t.id, t.board_us = id, board_us
    return _written(fedge_write_time(&t, out, sizeof(out)), out)


def read_time(const uint8_t[::1] body not None):
    """(id, board_us), or a negative status."""
    cdef fedge_board_time t
    cdef int status = fedge_read_time(&body[0] if body.shape[0] else NULL, body.shape[0], &t)
    if status != FEDGE_OK:
        return status
    return (t.id, t.board_us)


def write_end(uint32_t dropped):
    cdef uint8_t out[16]
    return _written(fedge_write_end(dropped, out, sizeof(out)), out)


def read_end(const uint8_t[::1] body not None):
    """Samples dropped since START, or a negative status."""
    cdef uint32_t dropped = 0
    cdef int status = fedge_read_end(&body[0] if body.shape[0] else NULL, body.shape[0], &dropped)
    if status != FEDGE_OK:
        return status
    return dropped
