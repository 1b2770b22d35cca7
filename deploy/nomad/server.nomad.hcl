# Servers on Redis and S3. Needs Docker on the clients, and the variables of README.md.
variable "image" {
  type    = string
  default = "registry.example.org/asman-server:0.1.0"
}

variable "public_url" {
  type    = string
  default = "https://compute.example.org"
}

job "asman-server" {
  type = "service"

  update {
    max_parallel     = 1
    health_check     = "checks"
    min_healthy_time = "10s"
    auto_revert      = true
  }

  group "server" {
    count = 2

    constraint {
      operator = "distinct_hosts"
      value    = "true"
    }

    network {
      port "http" {
        to = 8000
      }
    }

    service {
      name     = "asman-server"
      port     = "http"
      provider = "nomad"

      check {
        type     = "http"
        path     = "/readyz"
        interval = "10s"
        timeout  = "5s"
      }
    }

    task "server" {
      driver = "docker"
      # It needs at most 12 s.
      kill_timeout   = "20s"
      shutdown_delay = "5s"

      config {
        image           = var.image
        ports           = ["http"]
        readonly_rootfs = true
        cap_drop        = ["all"]
        security_opt    = ["no-new-privileges"]
        mount {
          type   = "tmpfs"
          target = "/tmp"
        }
        mount {
          type   = "tmpfs"
          target = "/var/lib/asman"
        }
      }

      env {
        ASMAN_BACKEND    = "redis+s3"
        ASMAN_PROFILE    = "public"
        ASMAN_PUBLIC_URL = var.public_url
        ASMAN_PROXIES    = "1"
        ASMAN_SERVER_ID  = "${NOMAD_SHORT_ALLOC_ID}"
      }

      # nomad/jobs/asman-server: redis, s3, access_key, secret_key, region
      template {
        destination = "${NOMAD_SECRETS_DIR}/server.env"
        env         = true
        data        = <<-EOT
          {{ with nomadVar "nomad/jobs/asman-server" }}
          ASMAN_REDIS={{ .redis }}
          ASMAN_S3={{ .s3 }}
          AWS_ACCESS_KEY_ID={{ .access_key }}
          AWS_SECRET_ACCESS_KEY={{ .secret_key }}
          AWS_REGION={{ .region }}
          {{ end }}
        EOT
      }

      resources {
        cpu        = 500
        memory     = 256
        memory_max = 768
      }
    }
  }
}
