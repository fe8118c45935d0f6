/* SPDX-License-Identifier: Apache-2.0 */
/* The counters and the list of processes, as JSON (docs/control.md). */
#ifndef SP_DAEMON_STATUS_H
#define SP_DAEMON_STATUS_H

#include <json-c/json.h>

#include "daemon.h"

#define SP_EVERYBODY ((uid_t)-1)

/* The counters over the domains of uid, or over all (SP_EVERYBODY). The caller's to put; NULL:
 * memory short. */
struct json_object *sp_status_json(struct sp_daemon *daemon, uid_t uid);
/* Everything that settings.h lists, by enum sp_key: of one domain, or (NULL) the daemon's settings and
 * the counters over what sp_status_json() tells of. */
void sp_status_values(struct sp_daemon *daemon, const struct sp_domain *domain, uid_t uid,
                      uint64_t value[SP_KEYS]);
/* What /proc/PID/ksm_stat tells, of a process that this uid may see. The caller's to put. */
struct json_object *sp_status_process_json(struct sp_daemon *daemon, uid_t uid, pid_t pid);
/* One process. The caller's to put. */
struct json_object *sp_process_json(const struct sp_client *client);

/* CPU that this process has used, in microseconds; 0 where it cannot be told. */
uint64_t sp_own_cpu_us(void);
/* The same with the looker's and that of living agents. */
uint64_t sp_status_cpu_us(const struct sp_daemon *daemon);

#endif
