# Workers for one queue, scaled by the Nomad Autoscaler on the cores that the queue's jobs ask for.
# Clients: Docker with volumes enabled, and max_kill_timeout = "1h" (client.hcl).
variable "image" {
  type    = string
  default = "registry.example.org/asman-worker:0.1.0"
}

variable "server" {
  type    = string
  default = "https://compute.example.org"
}

job "asman-worker" {
  type = "service"

  # Only where workers may have the engine's socket, which is root on the machine.
  constraint {
    attribute = "${meta.asman_worker}"
    value     = "cpu"
  }

  group "worker" {
    count = 0

    # One worker per machine: it lends its cores to jobs by itself.
    constraint {
      operator = "distinct_hosts"
      value    = "true"
    }

    scaling {
      enabled = true
      min     = 0
      max     = 10

      policy {
        cooldown            = "2m"
        evaluation_interval = "15s"

        check "cores" {
          source = "prometheus"
          # Workers of 4 cores each; the most of ten minutes, so that none is stopped between two jobs.
          query        = "ceil(max(max_over_time(queue_requested_cpus{job=\"asman-queue\",queue=\"renders\"}[10m])) / 4)"
          query_window = "1m"

          strategy "pass-through" {}
        }
      }
    }

    restart {
      attempts = 10
      interval = "30m"
      delay    = "15s"
      mode     = "delay"
    }

    network {
      port "status" {}
    }

    service {
      name     = "asman-worker"
      port     = "status"
      provider = "nomad"

      check {
        type     = "http"
        path     = "/healthz"
        interval = "30s"
        timeout  = "10s"
      }
    }

    task "worker" {
      driver      = "docker"
      kill_signal = "SIGTERM"
      # No more jobs are taken, running ones may end within ASMAN_WORKER_DRAIN, what is left is handed back.
      kill_timeout = "1h"

      config {
        image        = var.image
        network_mode = "host"
        # The engine mounts a job's folders by the path that the worker knows: the same outside and inside.
        volumes = [
          "/var/run/docker.sock:/var/run/docker.sock",
          "/var/lib/asman-worker:/var/lib/asman-worker",
        ]
      }

      env {
        ASMAN_WORKER_SERVER           = var.server
        ASMAN_WORKER_CPUS             = "4"
        ASMAN_WORKER_MEMORY           = "8g"
        ASMAN_WORKER_NAME             = "${node.unique.name}"
        ASMAN_WORKER_DRAIN            = "3500"
        ASMAN_WORKER_MAX_JOB_DURATION = "1h"
        ASMAN_WORKER_STATUS           = "${NOMAD_ADDR_status}"
        ASMAN_WORKER_LOG_FORMAT       = "json"
      }

      # nomad/jobs/asman-worker: queue. The name of a queue is the key to it.
      template {
        destination = "${NOMAD_SECRETS_DIR}/worker.env"
        env         = true
        data        = <<-EOT
          {{ with nomadVar "nomad/jobs/asman-worker" }}
          ASMAN_WORKER_QUEUES={{ .queue }}
          {{ end }}
        EOT
      }

      # The worker itself; jobs run in the engine, so keep 4 cores and 8 GiB of such machines for them.
      resources {
        cpu    = 200
        memory = 256
      }
    }
  }
}
