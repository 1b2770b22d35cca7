# Groups of worker machines on AWS, each for one queue, from none to as many as allowed.
terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.70"
    }
    archive = {
      source  = "hashicorp/archive"
      version = "~> 2.6"
    }
  }
}

provider "aws" {
  region = var.region
}

data "aws_subnet" "first" {
  id = var.subnet_ids[0]
}

data "aws_ami" "debian" {
  most_recent = true
  owners      = ["136693071363"] # Debian
  filter {
    name   = "name"
    values = ["debian-12-amd64-*"]
  }
}

# Nobody calls a worker.
resource "aws_security_group" "worker" {
  name_prefix = "asman-worker-"
  description = "asman workers dial out and are called by nobody"
  vpc_id      = data.aws_subnet.first.vpc_id

  egress {
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    cidr_blocks = ["0.0.0.0/0"]
  }
}

# The names of the queues are their keys. They are put in by hand (README.md), so that no state file holds them.
resource "aws_secretsmanager_secret" "queue" {
  for_each    = var.worker_groups
  name_prefix = "asman-queue-${each.key}-"
}

# One role per group: it reads its own queue's name and takes its own machines out of its group, nothing else.
resource "aws_iam_role" "worker" {
  for_each    = var.worker_groups
  name_prefix = "asman-worker-${each.key}-"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "ec2.amazonaws.com" } }]
  })
}

resource "aws_iam_role_policy" "worker" {
  for_each = var.worker_groups
  role     = aws_iam_role.worker[each.key].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        {
          Effect   = "Allow"
          Action   = "secretsmanager:GetSecretValue"
          Resource = aws_secretsmanager_secret.queue[each.key].arn
        },
        {
          Effect    = "Allow"
          Action    = "autoscaling:TerminateInstanceInAutoScalingGroup"
          Resource  = "*"
          Condition = { StringEquals = { "autoscaling:ResourceTag/asman-group" = each.key } }
        },
      ],
      var.ecr_repository_arn == "" ? [] : [
        { Effect = "Allow", Action = "ecr:GetAuthorizationToken", Resource = "*" },
        {
          Effect   = "Allow"
          Action   = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
          Resource = var.ecr_repository_arn
        },
      ],
    )
  })
}

resource "aws_iam_instance_profile" "worker" {
  for_each    = var.worker_groups
  name_prefix = "asman-worker-${each.key}-"
  role        = aws_iam_role.worker[each.key].name
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

resource "aws_launch_template" "worker" {
  for_each               = var.worker_groups
  name_prefix            = "asman-worker-${each.key}-"
  image_id               = each.value.image == "" ? data.aws_ami.debian.id : each.value.image
  instance_type          = each.value.instance_types[0]
  vpc_security_group_ids = [aws_security_group.worker.id]

  iam_instance_profile {
    arn = aws_iam_instance_profile.worker[each.key].arn
  }

  block_device_mappings {
    device_name = "/dev/xvda"
    ebs {
      volume_size           = each.value.disk_gb
      volume_type           = "gp3"
      encrypted             = true
      delete_on_termination = true
    }
  }

  # One hop: answers do not pass a bridge, so no container gets this machine's credentials.
  metadata_options {
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
    instance_metadata_tags      = "disabled"
  }

  user_data = base64gzip(templatefile("${path.module}/../vm/start.tftpl", {
    kind   = "aws"
    cloud  = file("${path.module}/../vm/aws")
    watch  = file("${path.module}/../vm/watch")
    worker = local.worker_env[each.key]
    machine = join("\n", [
      "REGION=${var.region}",
      "SECRET=${aws_secretsmanager_secret.queue[each.key].arn}",
      "IDLE_S=${each.value.idle_s}",
      "WORKER_IMAGE=${var.worker_image}",
      "DOCKER_FLAGS=${each.value.gpus > 0 ? "--gpus=all" : "--pull=missing"}",
    ])
  }))
}

resource "aws_autoscaling_group" "worker" {
  for_each              = var.worker_groups
  name                  = "asman-worker-${each.key}"
  vpc_zone_identifier   = var.subnet_ids
  min_size              = each.value.min_workers
  max_size              = each.value.max_workers
  protect_from_scale_in = true # machines leave when they are idle; nobody chooses them
  capacity_rebalance    = false
  # Balancing zones would end machines that work.
  suspended_processes = ["AZRebalance"]

  mixed_instances_policy {
    instances_distribution {
      on_demand_base_capacity                  = 0
      on_demand_percentage_above_base_capacity = each.value.spot ? 0 : 100
      spot_allocation_strategy                 = "price-capacity-optimized"
    }
    launch_template {
      launch_template_specification {
        launch_template_id = aws_launch_template.worker[each.key].id
        version            = "$Latest"
      }
      dynamic "override" {
        for_each = each.value.instance_types
        content {
          instance_type = override.value
        }
      }
    }
  }

  tag {
    key                 = "asman-group"
    value               = each.key
    propagate_at_launch = true
  }

  lifecycle {
    ignore_changes = [desired_capacity] # the scaler's, and the machines' own
  }
}
