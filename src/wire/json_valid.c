/* SPDX-License-Identifier: Apache-2.0 */
/* Is this text JSON at all? For messages whose content nobody reads. */
#include <jansson.h>

#include "gf/json.h"

bool gf_json_valid(const char *text, size_t len)
{
    json_t *value = json_loadb(text, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);

    json_decref(value);
    return value != NULL;
}
