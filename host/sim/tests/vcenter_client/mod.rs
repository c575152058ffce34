//! A raw SOAP client for the tests of the simulated vCenter: it writes the
//! requests by hand and reads the answers as trees, so that the tests see the
//! wire itself.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code, though no #[test] itself")]

use axum::body::Body;
use http::header::{COOKIE, SET_COOKIE};
use http::{Request, StatusCode};
use quick_xml::events::Event;
use quick_xml::{Reader, XmlVersion};
use tower::ServiceExt as _;
use vmgroup_sim::clock::Clock;
use vmgroup_sim::vcenter::{VcenterConfig, VcenterSim};

/// An element of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    pub name: String,
    pub xsi_type: Option<String>,
    pub ref_type: Option<String>,
    pub text: String,
    pub children: Vec<Node>,
}

impl Node {
    fn parse(body: &str) -> Self {
        let mut reader = Reader::from_str(body);
        let mut open = vec![Node::default()];
        loop {
            match reader.read_event().expect("well-formed") {
                Event::Start(start) => {
                    let name = start.name().as_ref().to_owned();
                    let mut node = Node { name, ..Node::default() };
                    for attribute in start.attributes() {
                        let attribute = attribute.expect("an attribute");
                        let value = attribute.normalized_value(XmlVersion::Implicit1_0).unwrap().into_owned();
                        match attribute.key.as_ref() {
                            "xsi:type" => node.xsi_type = Some(value),
                            "type" => node.ref_type = Some(value),
                            _ => {}
                        }
                    }
                    open.push(node);
                }
                Event::End(_) => {
                    let node = open.pop().unwrap();
                    open.last_mut().unwrap().children.push(node);
                }
                Event::Text(text) => open.last_mut().unwrap().text.push_str(&text),
                Event::GeneralRef(reference) => {
                    let char = match &*reference {
                        "lt" => '<',
                        "gt" => '>',
                        "amp" => '&',
                        other => panic!("&{other};"),
                    };
                    open.last_mut().unwrap().text.push(char);
                }
                Event::Eof => break,
                _ => {}
            }
        }
        open.pop().unwrap()
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Node> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The element at a path of names, the first one of several.
    pub fn get(&self, path: &str) -> Option<&Node> {
        path.split('/').try_fold(self, |node, name| node.children.iter().find(|c| c.name == name))
    }

    pub fn text(&self, path: &str) -> &str {
        self.get(path).map_or("", |node| node.text.as_str())
    }

    /// Of an `ObjectContent` or `ObjectUpdate`: the value of a property.
    pub fn property(&self, name: &str) -> Option<&Node> {
        self.children
            .iter()
            .filter(|child| child.name == "propSet" || child.name == "changeSet")
            .find(|child| child.text("name") == name)
            .and_then(|child| child.get("val"))
    }
}

/// How a call can fail.
#[derive(Debug, PartialEq)]
pub enum Failure {
    /// A SOAP fault: its type, and its detail.
    Fault(String, Node),
    Status(StatusCode),
    Cut,
}

impl Failure {
    pub fn kind(&self) -> &str {
        match self {
            Self::Fault(kind, _) => kind,
            Self::Status(_) => "status",
            Self::Cut => "cut",
        }
    }
}

pub type Reply = Result<Node, Failure>;

/// A reference: type and value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ref(pub String, pub String);

impl Ref {
    pub fn new(kind: &str, value: &str) -> Self {
        Self(kind.to_owned(), value.to_owned())
    }

    pub fn of(node: &Node) -> Self {
        Self(node.ref_type.clone().expect("a reference"), node.text.clone())
    }

    pub fn element(&self, name: &str) -> String {
        format!("<{name} type=\"{}\">{}</{name}>", self.0, self.1)
    }
}

/// A client with at most one session.
#[derive(Clone)]
pub struct Client {
    pub sim: VcenterSim,
    pub cookie: Option<String>,
}

pub fn sim(config: VcenterConfig) -> VcenterSim {
    VcenterSim::new(config, Clock::starting_at(std::time::Duration::from_secs(1_700_000_000)))
}

impl Client {
    pub fn new(sim: &VcenterSim) -> Self {
        Self { sim: sim.clone(), cookie: None }
    }

    /// A client that is logged in.
    pub async fn logged_in(sim: &VcenterSim) -> Self {
        let mut client = Self::new(sim);
        client.login("user", "pass").await.expect("a session");
        client
    }

    pub async fn login(&mut self, user: &str, password: &str) -> Reply {
        let body = format!("<userName>{user}</userName><password>{password}</password>");
        self.call("Login", &Ref::new("SessionManager", "SessionManager"), &body).await
    }

    pub async fn call(&mut self, method: &str, this: &Ref, body: &str) -> Reply {
        let envelope = format!(
            "<Envelope xmlns=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><Body>\
             <{method} xmlns=\"urn:vim25\">{}{body}</{method}></Body></Envelope>",
            this.element("_this")
        );
        let mut request = Request::post("/sdk");
        if let Some(cookie) = &self.cookie {
            request = request.header(COOKIE, cookie);
        }
        let request = request.body(Body::from(envelope)).unwrap();
        let response = self.sim.service().oneshot(request).await.map_err(|_| Failure::Cut)?;
        if let Some(cookie) = response.headers().get(SET_COOKIE) {
            let cookie = cookie.to_str().unwrap().split(';').next().unwrap();
            self.cookie = Some(cookie.to_owned());
        }
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let text = std::str::from_utf8(&bytes).unwrap();
        if text.is_empty() {
            return Err(Failure::Status(status));
        }
        let root = Node::parse(text);
        let body = root.get("soapenv:Envelope/soapenv:Body").expect("a SOAP body");
        if let Some(fault) = body.get("soapenv:Fault") {
            assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
            let detail = fault.get("detail").unwrap().children[0].clone();
            let kind = detail.xsi_type.clone().unwrap();
            assert_eq!(detail.name, format!("{kind}Fault"));
            return Err(Failure::Fault(kind, detail));
        }
        Ok(body.get(&format!("{method}Response")).expect("a response").clone())
    }

    /// The entity at an inventory path.
    pub async fn find(&mut self, path: &str) -> Option<Ref> {
        let index = Ref::new("SearchIndex", "SearchIndex");
        let body = format!("<inventoryPath>{path}</inventoryPath>");
        let reply = self.call("FindByInventoryPath", &index, &body).await.expect("an answer");
        reply.get("returnval").map(Ref::of)
    }

    pub async fn must_find(&mut self, path: &str) -> Ref {
        self.find(path).await.unwrap_or_else(|| panic!("nothing at {path}"))
    }

    /// One object's properties, as an `ObjectContent`.
    pub async fn properties(&mut self, object: &Ref, paths: &[&str]) -> Reply {
        let spec = format!(
            "<specSet><propSet><type>{}</type>{}</propSet><objectSet>{}</objectSet></specSet>",
            object.0,
            path_set(paths),
            object.element("obj"),
        );
        let reply = self.call("RetrievePropertiesEx", &collector(), &spec).await?;
        Ok(reply.get("returnval/objects").expect("an object").clone())
    }

    /// One property's value as text.
    pub async fn property(&mut self, object: &Ref, path: &str) -> String {
        let content = self.properties(object, &[path]).await.expect("properties");
        content.property(path).map(|node| node.text.clone()).unwrap_or_default()
    }

    /// Starts a task.
    pub async fn start(&mut self, method: &str, this: &Ref, body: &str) -> Result<Ref, Failure> {
        let reply = self.call(method, this, body).await?;
        Ok(Ref::of(reply.get("returnval").expect("a task")))
    }

    /// The info of a task.
    pub async fn info(&mut self, task: &Ref) -> Node {
        let content = self.properties(task, &["info"]).await.expect("a task");
        content.property("info").expect("its info").clone()
    }

    /// The info of a task when it has ended.
    pub async fn ended(&mut self, task: &Ref) -> Node {
        for _ in 0..10_000 {
            let info = self.info(task).await;
            if info.text("state") != "running" {
                return info;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the task does not end");
    }

    /// Runs a task to its end.
    pub async fn run(&mut self, method: &str, this: &Ref, body: &str) -> Node {
        let task = self.start(method, this, body).await.expect("a task");
        self.ended(&task).await
    }

    /// Clones the template of the default inventory, and waits.
    pub async fn clone_vm(&mut self, folder: &str, name: &str, spec: &str) -> Node {
        let task = self.start_clone(folder, name, spec).await.expect("a task");
        self.ended(&task).await
    }

    /// Starts to clone the template of the default inventory into the cluster's
    /// pool. `spec` follows `location` in the clone spec.
    pub async fn start_clone(&mut self, folder: &str, name: &str, spec: &str) -> Result<Ref, Failure> {
        let template = self.must_find("/DC0/vm/vm-operator-template").await;
        let folder = self.must_find(folder).await;
        let pool = self.must_find("/DC0/host/DC0_C0/Resources").await;
        let body = format!(
            "{}<name>{name}</name><spec><location>{}</location>{spec}</spec>",
            folder.element("folder"),
            pool.element("pool"),
        );
        self.start("CloneVM_Task", &template, &body).await
    }
}

/// The paths of a property spec.
pub fn path_set(paths: &[&str]) -> String {
    format!("<pathSet>{}</pathSet>", paths.join("</pathSet><pathSet>"))
}

pub fn collector() -> Ref {
    Ref::new("PropertyCollector", "propertyCollector")
}

/// The type of a failed task's fault.
pub fn fault_of(info: &Node) -> &str {
    assert_eq!(info.text("state"), "error", "{info:?}");
    info.get("error/fault").unwrap().xsi_type.as_deref().unwrap()
}
