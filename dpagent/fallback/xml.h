/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The leaves of an XML document, for lists and errors of object storage. Over expat; hostile bytes are met with bounds: no document type (so no
 * entities but XML's own), at most 16 levels, names and texts of bounded size.
 *
 * Threads: any. Errors: KS_DATA_LOSS for what is no such document.
 */
#ifndef DPA_XML_H
#define DPA_XML_H

#include "base/bytes.h"
#include "base/status.h"

/*
 * An element ended: 'path' is "Root/Outer/Inner" without prefixes of name spaces, 'text' what stood directly in it, without blanks around. False ends
 * the reading as malformed.
 */
typedef bool dpa_xml_fn(void *ctx, const char *path, const char *text);

enum ks_status dpa_xml_read(struct ks_slice bytes, dpa_xml_fn *fn, void *ctx, struct ks_err *err) KS_MUST_CHECK;

#endif
