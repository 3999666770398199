/* SPDX-License-Identifier: Apache-2.0 */
/* The table as data, and the three forms of its text: Prometheus' 0.0.4, OpenMetrics 1.0.0, and JSON. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/metrics_priv.h"
#include "base/thread.h"

#define LABELS_MAX 192
#define SAMPLES_MAX 256

/* ---- the table ---- */

#define ROW(id, type_, show_, label_, more_, buckets_, name_, help_) \
	[KS_METRIC_##id] = {                                         \
		.type = KS_METRIC_##type_,                           \
		.show = KS_METRIC_##show_,                           \
		.label = KS_METRIC_LABEL_##label_,                   \
		.more = KS_METRIC_LABEL_##more_,                     \
		.buckets = KS_METRIC_BUCKETS_##buckets_,             \
		.cell = KS_METRIC_CELL_##id,                         \
		.step = KS_METRIC_CELLS_##buckets_,                  \
		.name = name_,                                       \
		.help = help_,                                       \
	},
const struct ks_metrics_row ks_metrics_rows[KS_METRIC_ROWS] = {KS_METRICS(ROW)};
#undef ROW

#define BOUNDS(name, scale, count, ...) static const uint64_t bounds_##name[count] = {__VA_ARGS__};
KS_METRIC_BUCKETS(BOUNDS)
#undef BOUNDS
#define BOUNDS(name, scale, count, ...) [KS_METRIC_BUCKETS_##name] = {bounds_##name, count, scale},
const struct ks_metrics_bounds ks_metrics_bounds[KS_METRIC_BUCKETS_COUNT] = {KS_METRIC_BUCKETS(BOUNDS)};
#undef BOUNDS

#define LABEL(name, size, ...) static const char *const label_##name[size] = {__VA_ARGS__};
KS_METRIC_LABELS(LABEL)
#undef LABEL
static const struct {
	const char *const *texts;
	size_t size;
} labels[KS_METRIC_LABEL_COUNT] = {
#define LABEL(name, size, ...) [KS_METRIC_LABEL_##name] = {label_##name, size},
	KS_METRIC_LABELS(LABEL)
#undef LABEL
};

/* The texts of METHOD: set at the start, read by whoever renders. */
static pthread_mutex_t methods_lock = PTHREAD_MUTEX_INITIALIZER;
static char method_texts[KS_METRIC_LABEL_SIZE_METHOD][LABELS_MAX];
static size_t method_count;

void ks_metrics_name_methods(const struct ks_metrics_method *methods, size_t count)
{
	KS_ASSERT(count <= KS_METRIC_LABEL_SIZE_METHOD);
	(void)pthread_mutex_lock(&methods_lock);
	for (size_t i = 0; i < count; i++) {
		const char *service = methods[i].path + 1;
		const char *slash = strchr(service, '/');

		KS_ASSERT(slash);
		(void)snprintf(method_texts[i], LABELS_MAX, "grpc_method=\"%s\",grpc_service=\"%.*s\",grpc_type=\"%s\"",
			       slash + 1, (int)(slash - service), service, methods[i].type);
	}
	method_count = count;
	(void)pthread_mutex_unlock(&methods_lock);
}

static size_t label_size(enum ks_metrics_label label)
{
	return label == KS_METRIC_LABEL_METHOD ? method_count : labels[label].size;
}

static const char *label_text(enum ks_metrics_label label, size_t index)
{
	return label == KS_METRIC_LABEL_METHOD ? method_texts[index] : labels[label].texts[index];
}

size_t ks_metrics_series(const struct ks_metrics_row *row)
{
	return labels[row->label].size * labels[row->more].size;
}

/* ---- samples ---- */

struct sample {
	enum ks_metric metric;
	double value;
	char labels[LABELS_MAX];
};

struct ks_metrics_sink {
	size_t count;
	struct sample samples[SAMPLES_MAX];
};

static const char *const *_Atomic left_out;

void ks_metrics_leave_out(const char *const *prefixes)
{
	atomic_store_explicit(&left_out, prefixes, memory_order_relaxed);
}

void ks_metrics_sample(struct ks_metrics_sink *sink, enum ks_metric metric, double value, const char *format, ...)
{
	struct sample *sample = &sink->samples[sink->count];
	va_list args;
	int size;

	KS_ASSERT(ks_metrics_rows[metric].show == KS_METRIC_SAMPLED);
	if (sink->count == SAMPLES_MAX)
		return;
	va_start(args, format);
	size = vsnprintf(sample->labels, sizeof(sample->labels), format, args);
	va_end(args);
	if (size < 0 || (size_t)size >= sizeof(sample->labels))
		return; /* half a label would spoil the whole text */
	sample->metric = metric;
	sample->value = value;
	sink->count++;
}

void ks_metrics_quote(const char *text, char *out, size_t size)
{
	size_t at = 0;

	for (; *text && at + 3 < size; text++) {
		if (*text == '\\' || *text == '"' || *text == '\n') {
			out[at++] = '\\';
			out[at++] = *text == '\n' ? 'n' : *text;
		} else {
			out[at++] = *text;
		}
	}
	if (size > 0)
		out[at] = '\0';
}

/* ---- numbers ---- */

/* Whole numbers as such; others as short as they can be without losing anything. */
static void number_text(double value, char text[32])
{
	if (isnan(value) || isinf(value)) {
		(void)snprintf(text, 32, "%s", isnan(value) ? "NaN" : value > 0 ? "+Inf" : "-Inf");
		return;
	}
	if (value > -1e15 && value < 1e15 && value == (double)(int64_t)value) {
		(void)snprintf(text, 32, "%" PRId64, (int64_t)value);
		return;
	}
	for (int digits = 15; digits <= 17; digits++) {
		(void)snprintf(text, 32, "%.*g", digits, value);
		if (strtod(text, NULL) == value)
			return;
	}
}

/* ---- writing ---- */

struct writer {
	struct ks_buf *buf;
	enum ks_metrics_format format;
	const struct ks_metrics_row *row;
	bool headed; /* HELP and TYPE of the row are out */
	bool comma;  /* JSON: something stands before */
};

/*
 * OpenMetrics wants samples of counters to end in _total, and the names of their families not to. A counter of etcd's that has no
 * _total is shown as a number of unknown type there: its name is worth more than its type.
 */
static bool is_open_counter(const struct writer *w)
{
	size_t size = strlen(w->row->name);

	return w->format == KS_METRICS_OPENMETRICS && w->row->type == KS_METRIC_COUNTER && size > 6 &&
	       strcmp(w->row->name + size - 6, "_total") == 0;
}

static size_t family_size(const struct writer *w)
{
	return strlen(w->row->name) - (is_open_counter(w) ? 6 : 0);
}

static const char *type_name(const struct writer *w)
{
	switch (w->row->type) {
	case KS_METRIC_COUNTER:
		return w->format == KS_METRICS_OPENMETRICS && !is_open_counter(w) ? "unknown" : "counter";
	case KS_METRIC_GAUGE:
		return "gauge";
	case KS_METRIC_HISTOGRAM:
		break;
	}
	return "histogram";
}

static void head(struct writer *w)
{
	int size = (int)family_size(w);

	if (w->headed || w->format == KS_METRICS_JSON)
		return;
	w->headed = true;
	ks_buf_printf(w->buf, "# HELP %.*s %s\n# TYPE %.*s %s\n", size, w->row->name, w->row->help, size, w->row->name,
		      type_name(w));
}

/* One line: name, suffix, labels (any of the three parts may be empty), value. */
static void line(struct writer *w, const char *suffix, const char *label, const char *more, const char *last,
		 double value)
{
	const char *parts[] = {label, more, last};
	const char *between = "{";
	char text[32];

	head(w);
	number_text(value, text);
	if (w->format == KS_METRICS_JSON)
		ks_buf_printf(w->buf, "%s\"", w->comma ? ",\n" : "\n");
	w->comma = true;
	ks_buf_printf(w->buf, "%.*s%s", (int)family_size(w), w->row->name, suffix);
	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
		if (!*parts[i])
			continue;
		ks_buf_printf(w->buf, "%s", between);
		for (const char *c = parts[i]; *c; c++) {
			if (w->format == KS_METRICS_JSON && (*c == '"' || *c == '\\'))
				ks_buf_append(w->buf, "\\", 1);
			ks_buf_append(w->buf, c, 1);
		}
		between = ",";
	}
	if (*between == ',')
		ks_buf_append(w->buf, "}", 1);
	ks_buf_printf(w->buf, w->format == KS_METRICS_JSON ? "\": %s" : " %s\n", text);
}

static const char *value_suffix(const struct writer *w)
{
	return is_open_counter(w) ? "_total" : "";
}

/* Buckets are read one after the other while others count, so the sum of what was read is the count. */
static void histogram(struct writer *w, size_t cell, const char *label, const char *more)
{
	const struct ks_metrics_bounds *shape = &ks_metrics_bounds[w->row->buckets];
	uint64_t counts[64], count = 0;
	char last[48], bound[32];

	KS_ASSERT(shape->count < sizeof(counts) / sizeof(*counts));
	for (size_t i = 0; i <= shape->count; i++)
		count += counts[i] = ks_metrics_sum(cell + i);
	if (count == 0 && w->row->show == KS_METRIC_USED)
		return;
	count = 0;
	for (size_t i = 0; i < shape->count; i++) {
		count += counts[i];
		number_text((double)shape->bounds[i] * shape->scale, bound);
		(void)snprintf(last, sizeof(last), "le=\"%s%s\"", bound,
			       w->format == KS_METRICS_OPENMETRICS && !strpbrk(bound, ".e") ? ".0" : "");
		line(w, "_bucket", label, more, last, (double)count);
	}
	count += counts[shape->count];
	line(w, "_bucket", label, more, "le=\"+Inf\"", (double)count);
	line(w, "_sum", label, more, "", (double)ks_metrics_sum(cell + shape->count + 1) * shape->scale);
	line(w, "_count", label, more, "", (double)count);
}

static void series(struct writer *w, size_t cell, const char *label, const char *more)
{
	bool gauge = w->row->type == KS_METRIC_GAUGE;

	if (w->row->type == KS_METRIC_HISTOGRAM)
		histogram(w, cell, label, more);
	else if (w->row->show != KS_METRIC_USED || ks_metrics_used(cell))
		line(w, value_suffix(w), label, more, "",
		     gauge ? ks_metrics_gauge(cell) : (double)ks_metrics_sum(cell));
}

static void row(struct writer *w, const struct ks_metrics_sink *sink)
{
	size_t more_size = labels[w->row->more].size;

	w->headed = false;
	if (w->row->show == KS_METRIC_SAMPLED) {
		for (size_t i = 0; i < sink->count; i++)
			if (&ks_metrics_rows[sink->samples[i].metric] == w->row)
				line(w, value_suffix(w), sink->samples[i].labels, "", "", sink->samples[i].value);
		return;
	}
	if (w->row->show == KS_METRIC_EXTENSIVE && !ks_metrics_extensive())
		return;
	for (size_t i = 0; i < label_size(w->row->label); i++)
		for (size_t j = 0; j < more_size; j++)
			series(w, w->row->cell + (i * more_size + j) * w->row->step, label_text(w->row->label, i),
			       label_text(w->row->more, j));
}

static bool is_left_out(const struct ks_metrics_row *row)
{
	const char *const *prefix = atomic_load_explicit(&left_out, memory_order_relaxed);

	for (; prefix && *prefix; prefix++)
		if (strncmp(row->name, *prefix, strlen(*prefix)) == 0)
			return true;
	return false;
}

void ks_metrics_render(struct ks_buf *buf, enum ks_metrics_format format)
{
	struct ks_metrics_sink *sink = ks_xmalloc(sizeof(*sink));
	struct writer w = {.buf = buf, .format = format};

	sink->count = 0;
	ks_metrics_ask(sink);
	if (format == KS_METRICS_JSON)
		ks_buf_printf(buf, "{");
	(void)pthread_mutex_lock(&methods_lock);
	for (size_t i = 0; i < KS_METRIC_ROWS; i++) {
		w.row = &ks_metrics_rows[i];
		if (!is_left_out(w.row))
			row(&w, sink);
	}
	(void)pthread_mutex_unlock(&methods_lock);
	if (format == KS_METRICS_JSON)
		ks_buf_printf(buf, "\n}");
	else if (format == KS_METRICS_OPENMETRICS)
		ks_buf_printf(buf, "# EOF\n");
	free(sink);
}

/* ---- which form ---- */

const char *ks_metrics_content_type(enum ks_metrics_format format)
{
	switch (format) {
	case KS_METRICS_PROMETHEUS:
		break;
	case KS_METRICS_OPENMETRICS:
		return "application/openmetrics-text; version=1.0.0; charset=utf-8";
	case KS_METRICS_JSON:
		return "application/json; charset=utf-8";
	}
	return "text/plain; version=0.0.4; charset=utf-8";
}

static double quality(const char *range, size_t size)
{
	const char *q = memmem(range, size, "q=", 2);
	char text[16] = "";

	if (!q)
		return 1;
	q += 2;
	for (size_t i = 0; i < sizeof(text) - 1 && q < range + size; i++)
		text[i] = *q++;
	return strtod(text, NULL);
}

/* Etcd has OpenMetrics off. Prometheus asks for it first, and would lose nothing without it; so the better quality wins. */
enum ks_metrics_format ks_metrics_negotiate(const char *accept)
{
	double open = 0, plain = 0;

	while (accept && *accept) {
		size_t size = strcspn(accept, ",");
		const char *range = accept + strspn(accept, " \t");
		size_t left = size - (size_t)(range - accept);
		double q;

		if (range > accept + size)
			left = 0;
		q = quality(range, left);
		if (left >= 28 && strncasecmp(range, "application/openmetrics-text", 28) == 0) {
			const char *version = memmem(range, left, "version=", 8);

			if ((!version || strncmp(version + 8, "1.0.0", 5) == 0) && q > open)
				open = q;
		} else if (left >= 10 && (strncasecmp(range, "text/plain", 10) == 0) && q > plain) {
			plain = q;
		}
		accept += size + (accept[size] == ',');
	}
	return open > 0 && open >= plain ? KS_METRICS_OPENMETRICS : KS_METRICS_PROMETHEUS;
}
