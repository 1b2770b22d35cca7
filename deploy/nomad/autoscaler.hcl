# The Nomad Autoscaler's agent: nomad-autoscaler agent -config=autoscaler.hcl
nomad {
  address = "http://127.0.0.1:4646"
}

apm "prometheus" {
  driver = "prometheus"
  config = {
    address = "http://prometheus.internal:9090"
  }
}

strategy "pass-through" {
  driver = "pass-through"
}
