# Every minute: ask the server how many workers a queue wants, and make the group larger if that is more than it has.
# It is never made smaller from here; machines leave when they are idle (deploy/vm/watch).
resource "google_service_account" "scaler" {
  account_id   = "asman-scaler"
  display_name = "asman: makes groups of workers larger"
}

resource "google_project_iam_custom_role" "scaler" {
  role_id = "asmanScaler"
  title   = "asman: resize groups of workers"
  permissions = [
    "compute.instanceGroupManagers.get", "compute.instanceGroupManagers.update", "compute.instances.create",
    "compute.regionOperations.get",
  ]
}

resource "google_project_iam_member" "scaler" {
  project = var.project
  role    = google_project_iam_custom_role.scaler.id
  member  = google_service_account.scaler.member
}

resource "google_project_iam_member" "scaler_logs" {
  project = var.project
  role    = "roles/logging.logWriter"
  member  = google_service_account.scaler.member
}

resource "google_secret_manager_secret_iam_member" "scaler" {
  for_each  = var.worker_groups
  secret_id = google_secret_manager_secret.queue[each.key].id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.scaler.member
}

resource "google_workflows_workflow" "scaler" {
  for_each        = var.worker_groups
  name            = "asman-scaler-${each.key}"
  region          = var.region
  service_account = google_service_account.scaler.id
  # Its log would hold the queue's name.
  call_log_level = "LOG_NONE"
  source_contents = templatefile("${path.module}/scaler.yaml.tftpl", {
    project         = var.project
    region          = var.region
    secret          = google_secret_manager_secret.queue[each.key].secret_id
    group           = "asman-worker-${each.key}"
    server          = var.server
    needs           = each.value.gpus > 0 ? "gpu" : "cpu"
    cpus_per_worker = each.value.cpus
    gpus_per_worker = max(each.value.gpus, 1)
    min_workers     = each.value.min_workers
    max_workers     = each.value.max_workers
  })
  depends_on = [google_project_service.needed]
}

resource "google_project_iam_member" "scheduler" {
  project = var.project
  role    = "roles/workflows.invoker"
  member  = google_service_account.scaler.member
}

resource "google_cloud_scheduler_job" "scaler" {
  for_each         = var.worker_groups
  name             = "asman-scaler-${each.key}"
  region           = var.region
  schedule         = "* * * * *"
  attempt_deadline = "60s"

  http_target {
    http_method = "POST"
    uri         = "https://workflowexecutions.googleapis.com/v1/${google_workflows_workflow.scaler[each.key].id}/executions"
    oauth_token {
      service_account_email = google_service_account.scaler.email
    }
  }
}
