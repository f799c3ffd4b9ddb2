/* SPDX-License-Identifier: Apache-2.0 */
/* Secrets come from files only. Here and not beside the parser, so that adapters need no configuration file. See gf/config.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "gf/config.h"

enum gf_class gf_config_secret(const char *path, char *secret_r, size_t size, size_t *len_r, struct gf_error *error_r)
{
    FILE *file = fopen(path, "re");
    size_t len;
    int failure;

    if (file == NULL)
        return gf_fail(error_r, GF_REJECT, errno, "secret file %s: %s", path, strerror(errno));
    len = fread(secret_r, 1, size, file);
    failure = ferror(file) ? errno : 0;
    (void)fclose(file); /* read only: nothing to lose */
    if (failure != 0)
        return gf_fail(error_r, GF_REJECT, failure, "secret file %s: %s", path, strerror(failure));
    if (len == size)
        return gf_fail(error_r, GF_REJECT, 0, "secret file %s is longer than %zu bytes", path, size - 1);
    while (len > 0 && (secret_r[len - 1] == '\n' || secret_r[len - 1] == '\r'))
        len--;
    if (len == 0)
        return gf_fail(error_r, GF_REJECT, 0, "secret file %s is empty", path);
    secret_r[len] = '\0';
    *len_r = len;
    return GF_OK;
}
