# What clients that run workers need: merge this into the agent's own configuration.
client {
  enabled          = true
  max_kill_timeout = "1h"

  meta {
    asman_worker = "cpu"
  }

  # For jobs, which Nomad does not see.
  reserved {
    cores  = "0-3"
    memory = 8192
  }
}

plugin "docker" {
  config {
    volumes {
      enabled = true
    }
  }
}
