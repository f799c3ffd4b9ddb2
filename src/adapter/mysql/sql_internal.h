/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
/* What the files of this folder share. */
#include <mysql.h>

#include "gf/sql.h"

struct gf_sql {
    MYSQL my;
    int host, address; /* which of mysql.hosts, which address of its name */
    bool last_address;
    bool lost;
};

/* connect.c: this server looked like the primary and takes no writes: the next connection tries the one behind it first. */
void gf_sql_avoid(const struct gf_sql *sql);

/* Marks the connection lost, and counts it: once, and one that never came about too. */
void gf_sql_lose(struct gf_sql *sql);
/* Classifies an error by its number and marks the connection lost where it is. */
enum gf_class gf_sql_fail(struct gf_sql *sql, int number, const char *text, struct gf_error *error_r);
