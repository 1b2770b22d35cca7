# Groups of worker machines on Google Cloud, each for one queue, from none to as many as allowed.
terraform {
  required_version = ">= 1.5"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 6.10"
    }
  }
}

provider "google" {
  project = var.project
  region  = var.region
}

resource "google_project_service" "needed" {
  for_each = toset([
    "cloudscheduler.googleapis.com", "compute.googleapis.com", "iam.googleapis.com",
    "secretmanager.googleapis.com", "workflows.googleapis.com",
  ])
  service            = each.key
  disable_on_destroy = false
}

# A network without any way in: machines have no public address and dial out through the translator.
resource "google_compute_network" "workers" {
  name                    = "asman-workers"
  auto_create_subnetworks = false
  depends_on              = [google_project_service.needed]
}

resource "google_compute_subnetwork" "workers" {
  name                     = "asman-workers"
  network                  = google_compute_network.workers.id
  region                   = var.region
  ip_cidr_range            = "10.90.0.0/20"
  private_ip_google_access = true
}

resource "google_compute_router" "workers" {
  name    = "asman-workers"
  network = google_compute_network.workers.id
  region  = var.region
}

resource "google_compute_router_nat" "workers" {
  name                               = "asman-workers"
  router                             = google_compute_router.workers.name
  region                             = var.region
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "ALL_SUBNETWORKS_ALL_IP_RANGES"
}

# The names of the queues are their keys. They are put in by hand (README.md), so that no state file holds them.
resource "google_secret_manager_secret" "queue" {
  for_each  = var.worker_groups
  secret_id = "asman-queue-${each.key}"
  replication {
    auto {}
  }
  depends_on = [google_project_service.needed]
}

# One account per group: it reads its own queue's name and takes its own machines out of the group, nothing else.
resource "google_service_account" "worker" {
  for_each     = var.worker_groups
  account_id   = "asman-worker-${each.key}"
  display_name = "asman workers, group ${each.key}"
}

resource "google_secret_manager_secret_iam_member" "worker" {
  for_each  = var.worker_groups
  secret_id = google_secret_manager_secret.queue[each.key].id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.worker[each.key].member
}

resource "google_project_iam_custom_role" "leave" {
  role_id     = "asmanWorkerLeaves"
  title       = "asman: a worker's machine leaves its group"
  permissions = ["compute.instanceGroupManagers.get", "compute.instanceGroupManagers.update", "compute.instances.delete"]
}

resource "google_project_iam_member" "leave" {
  for_each = var.worker_groups
  project  = var.project
  role     = google_project_iam_custom_role.leave.id
  member   = google_service_account.worker[each.key].member
}

resource "google_artifact_registry_repository_iam_member" "worker" {
  for_each   = var.artifact_repository == "" ? {} : var.worker_groups
  repository = var.artifact_repository
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.worker[each.key].member
}

resource "google_compute_instance_template" "worker" {
  for_each     = var.worker_groups
  name_prefix  = "asman-worker-${each.key}-"
  machine_type = each.value.machine_type

  disk {
    source_image = each.value.image
    disk_size_gb = each.value.disk_gb
    disk_type    = "pd-balanced"
    boot         = true
    auto_delete  = true
  }

  network_interface {
    subnetwork = google_compute_subnetwork.workers.id
  }

  dynamic "guest_accelerator" {
    for_each = each.value.accelerator == "" ? [] : [each.value.accelerator]
    content {
      type  = guest_accelerator.value
      count = each.value.gpus
    }
  }

  scheduling {
    preemptible                 = each.value.spot
    provisioning_model          = each.value.spot ? "SPOT" : "STANDARD"
    automatic_restart           = !each.value.spot
    on_host_maintenance         = each.value.spot || each.value.gpus > 0 ? "TERMINATE" : "MIGRATE"
    instance_termination_action = each.value.spot ? "STOP" : null
  }

  service_account {
    email  = google_service_account.worker[each.key].email
    scopes = ["cloud-platform"] # what the account may do is said by its roles
  }

  shielded_instance_config {
    enable_secure_boot = true
  }

  metadata = {
    block-project-ssh-keys = "true"
    enable-oslogin         = "TRUE"
  }

  metadata_startup_script = templatefile("${path.module}/../vm/start.tftpl", {
    kind   = "google"
    cloud  = file("${path.module}/../vm/google")
    watch  = file("${path.module}/../vm/watch")
    worker = local.worker_env[each.key]
    machine = join("\n", [
      "PROJECT=${var.project}",
      "REGION=${var.region}",
      "GROUP=asman-worker-${each.key}",
      "SECRET=${google_secret_manager_secret.queue[each.key].secret_id}",
      "MIN_WORKERS=${each.value.min_workers}",
      "IDLE_S=${each.value.idle_s}",
      "WORKER_IMAGE=${var.worker_image}",
      "DOCKER_FLAGS=${each.value.gpus > 0 ? "--gpus=all" : "--pull=missing"}",
    ])
  })

  lifecycle {
    create_before_destroy = true
  }
}

locals {
  worker_env = {
    for name, group in var.worker_groups : name => join("\n", [
      "ASMAN_WORKER_SERVER=${var.server}",
      "ASMAN_WORKER_CPUS=${group.cpus}",
      "ASMAN_WORKER_GPUS=${group.gpus > 0 ? "all" : "0"}",
      "ASMAN_WORKER_PROFILE=${group.profile}",
      "ASMAN_WORKER_MAX_JOB_DURATION=${group.max_job_duration}",
      "ASMAN_WORKER_GENERATE_ID=true",
      "ASMAN_WORKER_STATUS=127.0.0.1:9000",
      "ASMAN_WORKER_DRAIN=20",
      "ASMAN_WORKER_LOG_FORMAT=json",
    ])
  }
}

resource "google_compute_region_instance_group_manager" "worker" {
  for_each           = var.worker_groups
  name               = "asman-worker-${each.key}"
  region             = var.region
  base_instance_name = "asman-worker-${each.key}"
  target_size        = each.value.min_workers

  version {
    instance_template = google_compute_instance_template.worker[each.key].id
  }

  # A new template is used by machines that come from now on; those that run go when they are idle.
  update_policy {
    type                         = "OPPORTUNISTIC"
    minimal_action               = "REPLACE"
    instance_redistribution_type = "NONE"
    max_surge_fixed              = length(data.google_compute_zones.here.names)
    max_unavailable_fixed        = 0
  }

  lifecycle {
    ignore_changes = [target_size] # the scaler's, and the machines' own
  }
}

data "google_compute_zones" "here" {
  region     = var.region
  depends_on = [google_project_service.needed]
}
