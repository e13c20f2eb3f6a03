/* A recording to replay: text, one line a sample.
 *
 *   # sensor: kitchen-imu          optional; default: the file's name
 *   # rate_hz: 100                 needed unless the first column is time[s]
 *   # type: int32                  optional; default int16
 *   time[s],ax[m/s2]*0.001,temp[Cel]
 *   0.00,9.81,21.4
 *
 * A column is name[unit], and optionally *scale: value = scale * integer. Without a scale, a column of whole numbers that
 * fit keeps them (scale 1); any other gets the scale that puts its greatest magnitude at the end of the type's range.
 */
#ifndef FEDGE_RECORDING_H
#define FEDGE_RECORDING_H

#include "fedge_sensor.h"

struct recording {
    char sensor[FEDGE_MAX_TEXT + 1];
    char names[FEDGE_MAX_CHANNELS][FEDGE_MAX_TEXT + 1];
    char units[FEDGE_MAX_CHANNELS][FEDGE_MAX_TEXT + 1];
    float scales[FEDGE_MAX_CHANNELS];
    int32_t *values; /* (sample_count, channel_count), row-major; malloc'd */
    size_t sample_count;
    uint32_t rate_mhz;
    uint8_t channel_count;
    uint8_t sample_type;
};

/* Reads `path`. Returns 0, or -1 after saying on stderr what is wrong and in which line. `rate_hz` > 0 overrides the file. */
int recording_load(struct recording *recording, const char *path, double rate_hz);

void recording_free(struct recording *recording);

#endif
