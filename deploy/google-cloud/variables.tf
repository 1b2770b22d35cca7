variable "project" {
  description = "Google Cloud project."
  type        = string
}

variable "region" {
  description = "Where the machines are."
  type        = string
  default     = "europe-west4"
}

variable "server" {
  description = "Address of the server, such as https://compute.example.org."
  type        = string
}

variable "worker_image" {
  description = "The worker's image, with its tag (deploy/worker/build)."
  type        = string
}

variable "artifact_repository" {
  description = "Artifact Registry repository that the image is in (projects/P/locations/L/repositories/R); empty for others."
  type        = string
  default     = ""
}

variable "worker_groups" {
  description = "Groups of machines by name; cpus and gpus are those of one machine."
  type = map(object({
    machine_type     = string
    cpus             = number
    gpus             = optional(number, 0)
    accelerator      = optional(string, "") # for n1 machines; others bring their own
    image            = optional(string, "projects/debian-cloud/global/images/family/debian-12")
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
