#define _POSIX_C_SOURCE 200809L

#include "recording.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct table {
    double *cells; /* (rows, columns) */
    size_t rows, capacity;
    size_t columns;
    int has_time;
};

static int complain(const char *path, size_t line, const char *what) {
    fprintf(stderr, "fedge-sensor-host: %s:%zu: %s\n", path, line, what);
    return -1;
}

static void copy_text(char *out, const char *from, size_t length) {
    while (length > 0 && (*from == ' ' || *from == '\t')) {
        from++;
        length--;
    }
    while (length > 0 && strchr(" \t\r\n", from[length - 1]) != NULL) {
        length--;
    }
    if (length > FEDGE_MAX_TEXT) {
        length = FEDGE_MAX_TEXT;
    }
    memcpy(out, from, length);
    out[length] = '\0';
}

static void read_comment(struct recording *r, const char *line, double *rate_hz) {
    char value[FEDGE_MAX_TEXT + 1];
    const char *colon = strchr(line, ':');
    if (colon == NULL) {
        return;
    }
    copy_text(value, colon + 1, strlen(colon + 1));
    if (strstr(line, "sensor") != NULL && strstr(line, "sensor") < colon) {
        strcpy(r->sensor, value);
    } else if (strstr(line, "rate_hz") != NULL && *rate_hz <= 0.0) {
        *rate_hz = strtod(value, NULL);
    } else if (strstr(line, "type") != NULL) {
        r->sample_type = strcmp(value, "int32") == 0 ? FEDGE_INT32 : FEDGE_INT16;
    }
}

/* name[unit]*scale; 0 if it is anything else. */
static int read_column(struct recording *r, struct table *t, const char *cell, size_t length) {
    const char *end = cell + length;
    const char *open = memchr(cell, '[', length);
    const char *close = open == NULL ? NULL : memchr(open, ']', (size_t)(end - open));
    uint8_t i = r->channel_count;

    if (close == NULL || i == FEDGE_MAX_CHANNELS) {
        return 0;
    }
    copy_text(r->names[i], cell, (size_t)(open - cell));
    copy_text(r->units[i], open + 1, (size_t)(close - open - 1));
    r->scales[i] = 0.0f;
    if (close + 1 < end && close[1] == '*') {
        r->scales[i] = strtof(close + 2, NULL);
        if (!(r->scales[i] > 0.0f) || !isfinite(r->scales[i])) {
            return 0;
        }
    }
    t->columns++;
    if (t->columns == 1 && strcmp(r->names[0], "time") == 0 && strcmp(r->units[0], "s") == 0) {
        t->has_time = 1;
        return 1;
    }
    r->channel_count++;
    return r->names[i][0] != '\0';
}

static int read_header(struct recording *r, struct table *t, const char *line) {
    while (*line != '\0') {
        size_t length = strcspn(line, ",\r\n");
        if (!read_column(r, t, line, length)) {
            return 0;
        }
        line += length;
        if (*line != ',') {
            break;
        }
        line++;
    }
    return r->channel_count > 0;
}

static int read_row(struct table *t, const char *line) {
    if (t->rows == t->capacity) {
        size_t capacity = t->capacity == 0 ? 1024 : t->capacity * 2;
        double *cells = realloc(t->cells, capacity * t->columns * sizeof *cells);
        if (cells == NULL) {
            return 0;
        }
        t->cells = cells;
        t->capacity = capacity;
    }
    for (size_t c = 0; c < t->columns; c++) {
        char *end;
        double value = strtod(line, &end);
        if (end == line || !isfinite(value) || (c + 1 < t->columns && *end != ',')) {
            return 0;
        }
        t->cells[t->rows * t->columns + c] = value;
        line = end + 1;
    }
    t->rows++;
    return 1;
}

static float derive_scale(const struct table *t, size_t column, double limit) {
    double greatest = 0.0;
    int whole = 1;
    for (size_t i = 0; i < t->rows; i++) {
        double value = t->cells[i * t->columns + column];
        greatest = fmax(greatest, fabs(value));
        whole = whole && value == floor(value);
    }
    return (whole && greatest <= limit) || greatest == 0.0 ? 1.0f : (float)(greatest / limit);
}

static int convert(struct recording *r, const struct table *t) {
    double limit = r->sample_type == FEDGE_INT32 ? 2147483647.0 : 32767.0;
    r->values = malloc(t->rows * r->channel_count * sizeof *r->values);
    if (r->values == NULL) {
        return 0;
    }
    r->sample_count = t->rows;
    for (uint8_t c = 0; c < r->channel_count; c++) {
        size_t column = (size_t)c + (t->has_time ? 1u : 0u);
        if (r->scales[c] == 0.0f) {
            r->scales[c] = derive_scale(t, column, limit);
        }
        for (size_t i = 0; i < t->rows; i++) {
            double value = rint(t->cells[i * t->columns + column] / (double)r->scales[c]);
            value = fmin(fmax(value, -limit), limit); /* a converter saturates; it does not wrap */
            r->values[i * r->channel_count + c] = (int32_t)value;
        }
    }
    return 1;
}

static int load(struct recording *r, struct table *t, FILE *file, const char *path, double rate_hz) {
    char line[4096];
    size_t number = 0;

    while (fgets(line, sizeof line, file) != NULL) {
        number++;
        if (line[0] == '#') {
            read_comment(r, line, &rate_hz);
        } else if (line[strspn(line, " \t\r\n")] == '\0') {
            continue;
        } else if (r->channel_count == 0) {
            if (!read_header(r, t, line)) {
                return complain(path, number, "want columns name[unit] or name[unit]*scale, at most 32");
            }
        } else if (!read_row(t, line)) {
            return complain(path, number, "want one finite number a column");
        }
    }
    if (t->rows == 0) {
        return complain(path, number, "no samples");
    }
    if (t->has_time && rate_hz <= 0.0 && t->rows > 1) {
        rate_hz = (double)(t->rows - 1) / (t->cells[(t->rows - 1) * t->columns] - t->cells[0]);
    }
    if (!(rate_hz >= 0.001 && rate_hz <= 1e6)) {
        return complain(path, number, "no rate: want '# rate_hz: N', a column time[s], or --rate (0.001 to 1000000 Hz)");
    }
    r->rate_mhz = (uint32_t)(rate_hz * 1000.0 + 0.5);
    return convert(r, t) ? 0 : complain(path, number, "out of memory");
}

int recording_load(struct recording *recording, const char *path, double rate_hz) {
    struct table table = {NULL, 0, 0, 0, 0};
    const char *base = strrchr(path, '/') == NULL ? path : strrchr(path, '/') + 1;
    FILE *file = fopen(path, "r");
    int status;

    memset(recording, 0, sizeof *recording);
    recording->sample_type = FEDGE_INT16;
    copy_text(recording->sensor, base, strcspn(base, "."));
    if (file == NULL) {
        return complain(path, 0, "cannot be read");
    }
    status = load(recording, &table, file, path, rate_hz);
    fclose(file);
    free(table.cells);
    return status;
}

void recording_free(struct recording *recording) {
    free(recording->values);
    recording->values = NULL;
}
