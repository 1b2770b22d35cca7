variable "region" {
  description = "Where the machines are."
  type        = string
  default     = "eu-central-1"
}

variable "subnet_ids" {
  description = "Subnets of one VPC that reach the internet (through a NAT gateway, or with public addresses)."
  type        = list(string)
}

variable "server" {
  description = "Address of the server, such as https://compute.example.org."
  type        = string
}

variable "worker_image" {
  description = "The worker's image, with its tag (deploy/worker/build)."
  type        = string
}

variable "ecr_repository_arn" {
  description = "ECR repository that the image is in; empty for other registries."
  type        = string
  default     = ""
}

variable "worker_groups" {
  description = "Groups of machines by name; cpus and gpus are those of one machine, so the types must be alike."
  type = map(object({
    instance_types   = list(string)
    cpus             = number
    gpus             = optional(number, 0)
    image            = optional(string, "") # Debian 12; for GPUs one with NVIDIA's driver and container toolkit
    disk_gb          = optional(number, 100)
    spot             = optional(bool, true)
    min_workers      = optional(number, 0)
    max_workers      = optional(number, 10)
    idle_s           = optional(number, 600)
    profile          = optional(string, "standard")
    max_job_duration = optional(string, "1h")
  }))

  validation {
    condition     = alltrue([for name, group in var.worker_groups : can(regex("^[a-z][a-z0-9-]{0,15}$", name))])
    error_message = "A group's name is at most 16 lowercase letters, digits and hyphens, and starts with a letter."
  }
}
