/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* The query that the public and the admin API share: GET requests/{id} of a user who is named by the caller. Takes the
 * request. */
#include "ingest.h"

void gf_query_request_of(const struct gf_call *call, int64_t user_id, struct gf_slice id);
